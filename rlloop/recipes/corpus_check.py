"""Whether a corpus is one that a configuration can train on."""

from __future__ import annotations

from rlloop.config import Config
from rlloop.data.corpus import Corpus
from rlloop.recipes.latent_encoder import latent_source


def check_corpus(config: Config, corpus: Corpus) -> None:
    """The labels that stages read are there, and the latents are those of the generator.

    Raises:
        ValueError: the first that is not so; says what was found and what was expected.
    """
    for stage in config.stages:
        reads = any("corpus" in phase.sources for phase in stage.phases)
        if reads and stage.label_in_corpus not in corpus.score_names:
            raise ValueError(
                f"stages.{stage.name}: its label is '{stage.label_in_corpus}', the corpus {corpus.folder} has scores "
                f"{list(corpus.score_names)}; name one of them as corpus_label"
            )
    if config.generator.target not in ("mini", "fluxaudio"):
        return  # a generator of one's own: nothing is known of its latents here
    source, spec = latent_source(config), corpus.spec
    if tuple(corpus.latent_shape) != source.latent_shape:
        raise ValueError(
            f"the corpus {corpus.folder} has latents of {tuple(corpus.latent_shape)}, those of the generator are "
            f"{source.latent_shape}; prepare it for this generator: rlloop data prepare"
        )
    if spec.latent_identity and spec.latent_identity != source.identity():
        raise ValueError(
            f"the corpus {corpus.folder} has latents of another autoencoder ({spec.latent_identity}, here "
            f"{source.identity()} of {source.path}); prepare it with this one: rlloop data prepare"
        )
    if config.generator.target == "fluxaudio":  # it makes no text features in training
        network = source.spec.network
        wanted = {"text": (network.text_seq_len, network.text_dim), "text_c": (network.text_c_dim,)}
        found = {name: tuple(shape) for name, shape in spec.feature_shapes.items()}
        if found != wanted:
            raise ValueError(
                f"the corpus {corpus.folder} has the text features {found}, the network takes {wanted}; prepare it for "
                "this generator: rlloop data prepare"
            )
