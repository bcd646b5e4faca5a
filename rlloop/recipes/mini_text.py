"""Builds the shipped prompt features: text.safetensors, words.json and prompts.jsonl.

Run once by the project; kept because whoever changes the shipped prompts has to run it again.
"""

import json
from collections import defaultdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from rlloop.models.text import NEGATIVE_PROMPT, TEXT_DIM, MiniLM, normalise_prompt, project_tokens, prompt_key

RIDGE = 30.0  # of 0.3 to 100 by prompts 60 to 79 with the words of the others only: cosine 0.80, 19 of 20 found


def build_text_assets(clips_jsonl: Path, encoder_folder: Path, out_dir: Path, first_heldout: int = 60) -> None:
    """Encodes the prompts of a clip list and writes the three files into `out_dir`.

    Args:
        clips_jsonl: one object a line with "id" and "prompt"; ids from `first_heldout` on are held out.
        encoder_folder: all-MiniLM-L6-v2.
    """
    lines = [json.loads(line) for line in clips_jsonl.read_text(encoding="utf-8").splitlines()]
    prompts = {line["id"]: line["prompt"] for line in lines}
    out_dir.mkdir(parents=True, exist_ok=True)
    with (out_dir / "prompts.jsonl").open("w", encoding="utf-8") as file:
        for number, prompt in sorted(prompts.items()):
            row = {"id": number, "prompt": prompt, "split": "heldout" if number >= first_heldout else "train"}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    encoder = MiniLM(encoder_folder)
    ordered = [prompts[number] for number in sorted(prompts)]
    encoded = [encoder(prompt) for prompt in [*ordered, "", NEGATIVE_PROMPT]]
    num_train = sum(number < first_heldout for number in prompts)
    mean, projection, scale = fit_projection(torch.cat([hidden for hidden, _ in encoded[:num_train]]))
    words, word_vectors, word_map = fit_words(encoder, ordered, encoded[: len(ordered)], mean, projection, scale)
    tensors = {
        "text": torch.stack([project_tokens(hidden, mean, projection, scale) for hidden, _ in encoded]),
        "text_c": torch.stack([sentence for _, sentence in encoded]),
        "mean": mean,
        "projection": projection,
        "scale": scale,
        "word_vectors": word_vectors,
        "word_map": word_map,
    }
    keys = [prompt_key(prompt) for prompt in [*ordered, "", NEGATIVE_PROMPT]]
    save_file(
        {name: tensor.half().contiguous() for name, tensor in tensors.items()},
        out_dir / "text.safetensors",
        metadata={"keys": json.dumps(keys)},
    )
    (out_dir / "words.json").write_text(json.dumps(words, ensure_ascii=False), encoding="utf-8")


def fit_projection(hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """PCA of token embeddings [N, 384]: mean [384], orthonormal directions [384, 128], one scale to unit variance."""
    mean = hidden.mean(0)
    directions = torch.linalg.svd(hidden - mean, full_matrices=False).Vh[:TEXT_DIM].T
    projected = (hidden - mean) @ directions
    return mean, directions, 1.0 / projected.pow(2).mean().sqrt()


def fit_words(
    encoder: MiniLM,
    prompts: list[str],
    encoded: list[tuple[Tensor, Tensor]],
    mean: Tensor,
    projection: Tensor,
    scale: Tensor,
) -> tuple[dict[str, int], Tensor, Tensor]:
    """Mean projected vector of every word of the prompts, and a ridge map from their mean in a prompt to its text_c.

    Returns:
        word -> row; vectors [V, 128]; map [129, 384], the last row being the intercept.
    """
    found: dict[str, list[Tensor]] = defaultdict(list)
    used = []
    for prompt, (hidden, _) in zip(prompts, encoded, strict=True):
        names = token_words(encoder, prompt)
        vectors = (hidden - mean) @ projection * scale
        for name in dict.fromkeys(names):
            found[name].append(vectors[[i for i, other in enumerate(names) if other == name]].mean(0))
        used.append(names)
    words = {word: row for row, word in enumerate(found)}
    table = torch.stack([torch.stack(vectors).mean(0) for vectors in found.values()])
    inputs = torch.stack([table[[words[w] for w in collapse(names)]].mean(0) for names in used])
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1).double()
    targets = torch.stack([sentence for _, sentence in encoded]).double()
    penalty = RIDGE * inputs[:, :-1].pow(2).mean() * torch.eye(inputs.shape[1], dtype=torch.float64)
    penalty[-1, -1] = 0  # the intercept is free
    word_map = torch.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ targets)
    return words, table, word_map.float()


def token_words(encoder: MiniLM, prompt: str) -> list[str]:
    """For each token of the prompt the word it is a piece of; the two ends are [cls] and [sep]."""
    text = normalise_prompt(prompt)
    tokens = encoder.tokenizer(text, return_offsets_mapping=True)
    names: list[str] = []
    for index, (start, end) in zip(tokens.word_ids(), tokens["offset_mapping"], strict=True):
        if index is None:
            names.append("[sep]" if names else "[cls]")
            continue
        span = tokens.word_to_chars(index)
        names.append(text[span.start : span.end] if end > start else "")
    return names


def collapse(names: list[str]) -> list[str]:
    """The words of a prompt from those of its tokens: neighbours of one word count once."""
    return [name for i, name in enumerate(names) if i == 0 or name != names[i - 1]]
