"""laion-clap's own embeddings, computed in its own environment: `python oracle.py FOLDER`, run by test_parity.py.

FOLDER holds request.npz (clips, crop starts) and prompts.json; this adds stand-ins for the three hub tokenizers and for
roberta-base, checkpoint.pt with random weights in the form of the published files, and answer.npz. Nothing is fetched:
laion-clap asks for `roberta-base` and the others by name, and a folder of that name in the working directory is taken
instead of the hub's.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch

VOCABULARY = 2000
TOKENIZERS = ("roberta-base", "facebook/bart-base")


def main(folder: Path) -> None:
    os.chdir(folder)
    prompts = json.loads(Path("prompts.json").read_text())
    make_stand_ins(prompts)
    import laion_clap

    torch.manual_seed(0)
    module = laion_clap.CLAP_Module(enable_fusion=False, device="cpu", amodel="HTSAT-base")
    randomise(module.model)
    save_as_published(module.model, Path("checkpoint.pt"))
    module = laion_clap.CLAP_Module(enable_fusion=False, device="cpu", amodel="HTSAT-base")
    module.load_ckpt("checkpoint.pt", verbose=False)

    request = np.load("request.npz")
    names = sorted(name for name in request.files if name.startswith("clip"))
    with torch.no_grad():
        embedded = {
            "quantised": np.concatenate([embed(module, request[n], int(request["start_" + n])) for n in names]),
            "plain": np.concatenate([embed_tensor(module, request[n], int(request["start_" + n])) for n in names]),
            "text": module.get_text_embedding(prompts),
        }
    np.savez("answer.npz", tokens=module.tokenizer(prompts)["input_ids"].numpy(), **embedded)


def embed(module, wave: np.ndarray, start: int) -> np.ndarray:
    feed_crop(start)
    return module.get_audio_embedding_from_data(x=wave[None], use_tensor=False)


def embed_tensor(module, wave: np.ndarray, start: int) -> np.ndarray:
    feed_crop(start)
    return module.get_audio_embedding_from_data(x=torch.from_numpy(wave)[None], use_tensor=True).numpy()


def feed_crop(start: int) -> None:
    """Makes laion-clap's next draw of a crop be `start`; its range is checked on the way."""

    def randint(low: int, high: int) -> int:
        assert low == 0 and start < high, (low, start, high)
        return start

    np.random.randint = randint


def make_stand_ins(prompts: list[str]) -> None:
    """Tokenizers and a RobertaModel of roberta-base's form (with a small vocabulary) under the names of the hub."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaConfig, RobertaModel

    for name in TOKENIZERS:
        Path(name).mkdir(parents=True)
        tokenizer = ByteLevelBPETokenizer()
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        tokenizer.train_from_iterator(prompts, vocab_size=VOCABULARY, min_frequency=1, special_tokens=special)
        tokenizer.save_model(name)
    Path("bert-base-uncased").mkdir()
    Path("bert-base-uncased/vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    # These are roberta-base's, and what RobertaConfig leaves at other values.
    config = RobertaConfig(vocab_size=VOCABULARY, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)
    RobertaModel(config).save_pretrained("roberta-base")


def randomise(model: torch.nn.Module) -> None:
    """Every weight off its initial value, as training leaves it: a bias of zero would hide a mistaken key."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.requires_grad and value.ndim:
                value += torch.randn(value.shape, generator=generator) * (0.3 if "bias_table" in name else 0.02)
        norm = model.audio_branch.bn0
        norm.running_mean.copy_(torch.randn(norm.running_mean.shape, generator=generator) * 5 - 30)
        norm.running_var.copy_(torch.rand(norm.running_var.shape, generator=generator) * 100 + 200)


def save_as_published(model: torch.nn.Module, path: Path) -> None:
    """Trained in parallel (`module.`), by an old transformers (`position_ids`), with the optimizer's numpy numbers."""
    state = {"module." + key: value for key, value in model.state_dict().items()}
    state["module.text_branch.embeddings.position_ids"] = torch.arange(514)[None]
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.5 * (1 + np.cos(0.1)) * 1e-4)
    torch.save({"epoch": 15, "name": "random", "state_dict": state, "optimizer": optimizer.state_dict()}, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
