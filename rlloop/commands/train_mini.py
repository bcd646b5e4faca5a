"""`rlloop train-mini`: trains the mini stack from a folder of clips, each part going on where it was stopped."""

from pathlib import Path
from typing import Annotated

import typer


def run(
    clips: Annotated[Path, typer.Argument(help="Folder with clips.jsonl and the clips that it names.")],
    out: Annotated[Path, typer.Option(help="Where the weights and the model card go.")],
    work: Annotated[Path, typer.Option(help="Checkpoints and caches; the same folder resumes.")],
) -> None:
    """Trains rewards, autoencoder and generator of the mini stack, then writes the model card. Hours on two cores.

    Example: rlloop train-mini clips --out rlloop/assets/mini --work work
    """
    if not (clips / "clips.jsonl").is_file():
        raise ValueError(f"{clips} holds no clips.jsonl; expected a folder of clips described by it")
    from rlloop.config import load
    from rlloop.models.policy import SamplingSettings
    from rlloop.recipes import mini_card, mini_generator, mini_reference, mini_reward
    from rlloop.recipes.embedders import MINI_REFERENCE

    for folder in (out, work):
        folder.mkdir(parents=True, exist_ok=True)
    mini_reward.train_mini_rewards(clips, out, work)
    mini_reference.write_mini_reference(clips, out / MINI_REFERENCE.name)
    mini_generator.train_mini_generator(clips, out, work)
    mini_card.write_mini_card(clips, out, SamplingSettings(**load("mini").sampling.model_dump()))
