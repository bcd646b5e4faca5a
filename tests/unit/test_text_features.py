"""Text features: encoders against transformers itself, the folder on disk, the table that samplers read."""

import json
import logging
import shutil
import sys
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ClapModel, T5EncoderModel
from typer.testing import CliRunner

from rlloop.commands.main import app
from rlloop.data.features import FeatureFolder, FeatureSpec, feature_key
from rlloop.models.clap_text import ClapText, clap_text_digest
from rlloop.models.prompt_table import PromptTable
from rlloop.models.t5 import FlanT5, t5_digest
from rlloop.recipes.prompt_features import EncoderFiles, FeatureWorker, encode_and_write, plan_features
from tests import tiny_encoders

PROMPTS = ["slow jazz", "", "piano and drums, high quality music", "waltz " * 200]
SPEC = FeatureSpec(t5="t" * 64, clap="c" * 64)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    return tiny_encoders.make_all(tmp_path_factory.mktemp("encoders"))


@pytest.fixture
def own(encoders, tmp_path):
    """A copy that a test may damage."""
    return {name: shutil.copytree(folder, tmp_path / name) for name, folder in encoders.items()}


def files_of(folders) -> EncoderFiles:
    return EncoderFiles(**{name: str(folder) for name, folder in folders.items()})


def features(prompts, seed=0):
    """Random features of few numbers in the shapes of the real ones: text [B, 77, 4], text_c [B, 3]."""
    generator = np.random.default_rng(seed)
    shape = (len(prompts), 77, 4)
    return generator.standard_normal(shape, np.float32), generator.standard_normal((len(prompts), 3), np.float32)


# --- the encoders


@pytest.mark.parametrize("prompt", PROMPTS[:3])
def test_t5_masks_padding_inside_and_keeps_it_outside(encoders, prompt):
    """Tokens get what an unpadded call gives them; padding positions are what the encoder computes, not zeros."""
    ours = FlanT5(encoders["t5"])
    direct = T5EncoderModel.from_pretrained(encoders["t5"]).eval()
    tokens = ours.tokenizer([prompt], return_tensors="pt")
    with torch.no_grad():
        expected = direct(**tokens).last_hidden_state[0]
    found = ours.encode([prompt])
    assert found.shape == (1, 77, tiny_encoders.T5_WIDTH) == (1, 77, ours.width) and found.dtype == torch.float32
    torch.testing.assert_close(found[0, : len(expected)], expected, atol=1e-5, rtol=0)
    assert found[0, len(expected) :].abs().min(dim=0).values.max() > 0
    assert tokens["input_ids"][0, -1] == ours.tokenizer.eos_token_id


def test_t5_cuts_at_77_tokens_with_the_end_token(encoders):
    t5 = FlanT5(encoders["t5"])
    long, exact, shorter = t5.encode(["waltz " * 200, "waltz " * 76, "waltz " * 75])
    assert torch.equal(long, exact) and not torch.allclose(long, shorter, atol=1e-3)


def test_clap_equals_transformers_and_has_unit_length(encoders):
    ours = ClapText(encoders["clap"], encoders["tokenizer"])
    direct = ClapModel.from_pretrained(encoders["clap"]).eval()
    tokens = ours.tokenizer([PROMPTS[0]], return_tensors="pt")
    with torch.no_grad():
        expected = direct.get_text_features(**tokens).pooler_output
    torch.testing.assert_close(ours.encode(PROMPTS[:1]), expected / expected.norm(), atol=1e-6, rtol=0)
    found = ours.encode(PROMPTS)
    assert found.shape == (4, tiny_encoders.CLAP_WIDTH) == (4, ours.width)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4))
    assert (found[1] - found[0]).abs().max() > 1e-3  # the empty prompt is a text of its own
    torch.testing.assert_close(ours.encode(["x" * 300]), ours.encode(["x" * 75]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["t5", "clap"])
def test_features_do_not_depend_on_the_batch(encoders, kind):
    encoder = FlanT5(encoders["t5"]) if kind == "t5" else ClapText(encoders["clap"], encoders["tokenizer"])
    together = encoder.encode(PROMPTS)
    for n, prompt in enumerate(PROMPTS):
        torch.testing.assert_close(encoder.encode([prompt])[0], together[n], atol=1e-6, rtol=0)


def drop_weight(path):
    weights = load_file(path)
    del weights["encoder.final_layer_norm.weight"]
    save_file(weights, path, {"format": "pt"})


def poison(path):
    weights = load_file(path)
    weights["encoder.final_layer_norm.weight"][0] = float("nan")
    save_file(weights, path, {"format": "pt"})


def swap_tokenizer(path):
    config = json.loads(path.read_text())
    for n in range(100):
        config["model"]["vocab"][f"word{n}"] = 100 + n
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("model.safetensors", lambda path: path.unlink(), "model.safetensors is missing"),
        ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:999]), "no loadable T5EncoderModel"),
        ("model.safetensors", drop_weight, "encoder.final_layer_norm.weight is missing"),
        ("model.safetensors", poison, "encoder.final_layer_norm.weight holds values that are not finite"),
        ("tokenizer.json", lambda path: path.unlink(), "holds no tokenizer"),
        ("tokenizer.json", lambda path: path.write_text("{"), "no loadable tokenizer"),
        ("tokenizer.json", swap_tokenizer, "the tokenizer has 115 tokens, the model 32"),
    ],
)
def test_a_damaged_encoder_is_one_line(own, name, damage, said):
    damage(own["t5"] / name)
    with pytest.raises(ValueError, match=said) as error:
        FlanT5(own["t5"])
    assert "\n" not in str(error.value) and str(own["t5"]) in str(error.value)


def test_the_digest_follows_what_decides_the_features(own):
    t5, clap = t5_digest(own["t5"]), clap_text_digest(own["clap"], own["tokenizer"])
    (own["t5"] / "README.md").write_text("a note")
    assert t5_digest(own["t5"]) == t5
    drop_weight(own["t5"] / "model.safetensors")
    (own["tokenizer"] / "tokenizer.json").write_text("{}")
    assert t5_digest(own["t5"]) != t5
    assert clap_text_digest(own["clap"], own["tokenizer"]) != clap


# --- the folder and the table


def test_what_is_written_is_read(tmp_path):
    prompts = [f"prompt {n}" for n in range(10)]
    text, text_c = features(prompts)
    FeatureFolder(tmp_path, SPEC).write(prompts, text, text_c)
    table = PromptTable(tmp_path)
    order = [7, 0, 7, 9]
    found = table.encode([prompts[n] for n in order])
    assert torch.equal(found["text"], torch.from_numpy(text[order]))
    assert torch.equal(found["text_c"], torch.from_numpy(text_c[order]))
    assert len(table) == 10 and table.missing(["prompt 3", "other", "other"]) == ["other"]


def test_float16_is_off_by_a_2048th_at_most(tmp_path):
    text, text_c = features(["a"])
    FeatureFolder(tmp_path, FeatureSpec("t", "c", "float16")).write(["a"], text, text_c)
    found = PromptTable(tmp_path).encode(["a"])["text"]
    assert found.dtype == torch.float32 and not torch.equal(found, torch.from_numpy(text))
    np.testing.assert_allclose(found.numpy(), text, rtol=2**-11, atol=2**-24)


def test_features_of_other_encoders_are_never_found(tmp_path):
    FeatureFolder(tmp_path / "a", SPEC).write(["jazz"], *features(["jazz"]))
    other = FeatureSpec(t5="t" * 64, clap="d" * 64)
    for spec in (other, FeatureSpec(SPEC.t5, SPEC.clap, "float16")):
        with pytest.raises(ValueError, match="choose another folder"):
            FeatureFolder(tmp_path / "a", spec)
    cache = FeatureFolder(tmp_path / "b", other)
    shutil.copy(next((tmp_path / "a").glob("*.parquet")), tmp_path / "b")
    assert cache.missing(["jazz"]) == ["jazz"] == PromptTable(tmp_path / "b").missing(["jazz"])
    assert feature_key("a", "b") != feature_key("ab", "")


def test_half_written_files_are_ignored(tmp_path, caplog):
    cache = FeatureFolder(tmp_path, SPEC)
    whole = cache.write(["jazz"], *features(["jazz"]))
    (tmp_path / "part-0.parquet.1234.tmp").write_bytes(whole.read_bytes()[:500])
    assert cache.missing(["jazz", "waltz"]) == ["waltz"]
    assert PromptTable(tmp_path).missing(["jazz", "waltz"]) == ["waltz"]
    cache.merge()
    assert len(list(tmp_path.glob("*.tmp"))) == 1  # another writer may be at it
    assert not caplog.records


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"<html>"])
def test_a_damaged_file_is_named_and_its_prompts_are_computed_again(tmp_path, damage, caplog):
    cache = FeatureFolder(tmp_path, SPEC)
    path = cache.write(["jazz"], *features(["jazz"]))
    cache.write(["waltz"], *features(["waltz"]))
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert cache.missing(["jazz", "waltz"]) == ["jazz"]
        assert PromptTable(tmp_path).missing(["jazz", "waltz"]) == ["jazz"]
    assert [record.getMessage().startswith(f"{path} is damaged") for record in caplog.records] == [True, True]
    assert not any("\n" in record.getMessage() for record in caplog.records)
    cache.write(["jazz"], *features(["jazz"]))
    assert cache.missing(["jazz", "waltz"]) == []


def test_a_flipped_byte_inside_a_row_is_not_served(tmp_path):
    text, text_c = features(["jazz"])
    path = FeatureFolder(tmp_path, SPEC).write(["jazz"], text, text_c)
    data = bytearray(path.read_bytes())
    data[data.index(text.tobytes()) + 100] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged .*CRC") as error:
        PromptTable(tmp_path).encode(["jazz"])
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_merging_keeps_every_row_and_open_tables_go_on(tmp_path):
    cache = FeatureFolder(tmp_path, SPEC)
    prompts = [f"prompt {n}" for n in range(20)]
    text, text_c = features(prompts)
    for n in range(0, 20, 2):
        cache.write(prompts[n : n + 2], text[n : n + 2], text_c[n : n + 2])
    cache.write(prompts[1:3], text[1:3], text_c[1:3])  # another writer computed these, too
    table = PromptTable(tmp_path, capacity=1)
    table.encode(prompts[:1])
    cache.merge(shard_rows=8)
    assert len(cache.files()) == 3 and {path.name[:5] for path in cache.files()} == {"shard"}
    assert torch.equal(table.encode(prompts)["text"], torch.from_numpy(text))
    assert cache.missing(prompts) == []
    before = cache.files()
    cache.merge(shard_rows=8)
    assert cache.files() == before


def test_several_writers_share_a_folder(tmp_path):
    prompts = [f"prompt {n}" for n in range(24)]
    text, text_c = features(prompts)

    def write(first):
        cache = FeatureFolder(tmp_path, SPEC)
        for n in range(first, first + 8):  # neighbours overlap by half
            cache.write([prompts[n]], text[n : n + 1], text_c[n : n + 1])
        cache.merge(shard_rows=4)

    threads = [threading.Thread(target=write, args=(first,)) for first in (0, 4, 8, 12, 16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(PromptTable(tmp_path).encode(prompts)["text_c"], torch.from_numpy(text_c))


def test_a_missing_prompt_names_the_command(tmp_path):
    with pytest.raises(ValueError, match="rlloop features PROMPTS --out"):
        PromptTable(tmp_path)
    cache = FeatureFolder(tmp_path, SPEC)
    table = PromptTable(tmp_path)
    with pytest.raises(ValueError, match="no features of the prompt 'slow waltz' .*rlloop features FILE") as error:
        table.encode(["slow waltz"])
    assert "\n" not in str(error.value)
    cache.write(["slow waltz"], *features(["slow waltz"]))  # meanwhile, by another process
    assert table.encode(["slow waltz"])["text"].shape == (1, 77, 4)


def test_repeated_prompts_come_from_memory(tmp_path):
    path = FeatureFolder(tmp_path, SPEC).write(["a", "b", "c"], *features(["a", "b", "c"]))
    table = PromptTable(tmp_path, capacity=2)
    for prompt in ("a", "b", "a", "c"):
        table.encode([prompt])
    path.unlink()
    table.encode(["a", "c"])
    with pytest.raises(ValueError, match="disappeared"):
        table.encode(["b"])


# --- the job's own part


class Fragile:
    """Encodes one number a prompt, counts its calls, and fails at what it does not like."""

    def __init__(self):
        self.calls = 0

    def __call__(self, prompts):
        self.calls += 1
        if "bad" in prompts:
            raise RuntimeError("token out of range\nand a long trace")
        value = np.array([{"nan": np.nan, "huge": 1e6}.get(p, len(p)) for p in prompts], np.float32)
        return np.tile(value[:, None, None], (1, 77, 4)), np.ones((len(prompts), 3), np.float32)


def test_a_prompt_that_fails_costs_itself_only(tmp_path):
    cache, encode = FeatureFolder(tmp_path, FeatureSpec("t", "c", "float16")), Fragile()
    done = encode_and_write(encode, cache, ["slow", "bad", "nan", "huge", "waltz"])
    assert done["written"] == 2 and encode.calls == 6  # the batch, then each by itself
    assert done["failures"] == {
        "bad": "RuntimeError: token out of range",
        "nan": "its features are not finite in float16",
        "huge": "its features are not finite in float16",
    }
    assert PromptTable(tmp_path).encode(["waltz", "slow"])["text"][:, 0, 0].tolist() == [5, 4]
    assert encode_and_write(Fragile(), cache, ["bad"])["written"] == 0


def test_a_plan_asks_for_each_missing_prompt_once(encoders, tmp_path):
    files = files_of(encoders)
    prompts = ["b", "a", "b", "\ud800", "c"]
    plan = plan_features(prompts, files, tmp_path / "out", "float32")
    assert plan.missing == ["b", "a", "c"] and plan.num_distinct == 4 and list(plan.failures) == ["\ud800"]
    worker = FeatureWorker(files, str(tmp_path / "out"), plan.spec, 2, "cpu", 1)
    assert [done["written"] for done in worker([{"prompt": prompt} for prompt in plan.missing])] == [2, 1]
    assert plan_features([*prompts, "d"], files, tmp_path / "out", "float32").missing == ["d"]
    found = PromptTable(tmp_path / "out").encode(["c", "a"])
    torch.testing.assert_close(found["text"], FlanT5(files.t5).encode(["c", "a"]), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="precision 'int8'"):
        plan_features(prompts, files, tmp_path / "out", "int8")


def test_a_worker_with_other_files_than_the_plan_refuses(encoders, own, tmp_path):
    spec = files_of(encoders).spec("float32")
    tiny_encoders.make_t5(own["t5"], seed=1)
    with pytest.raises(ValueError, match="is another file here than the job began with"):
        FeatureWorker(files_of(own), str(tmp_path / "out"), spec, 2, "cpu", 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--t5", "flan_t5_huge"], "flan_t5_huge is neither an existing path nor a known name"),
        (["--clap", "."], "config.json is missing"),
        (["--out", "/proc/features"], "/proc/features cannot be written to"),
        (["--actors", "1000"], "1000 actors of 1 CPUs take 1000, this machine has"),
        (["--dtype", "int8"], "precision 'int8' is none of float32, float16"),
        (["--column", "caption"], "expected one named 'caption'"),
    ],
)
def test_the_command_refuses_before_ray_starts(encoders, tmp_path, options, said):
    (tmp_path / "p.csv").write_text("id,prompt\n1,slow jazz\n")
    given = {"--out": str(tmp_path / "out"), **{f"--{name}": str(folder) for name, folder in encoders.items()}}
    given |= dict(zip(options[::2], options[1::2], strict=True))
    done = CliRunner().invoke(app, ["features", str(tmp_path / "p.csv"), *[x for pair in given.items() for x in pair]])
    assert done.exit_code == 2 and said in done.output.splitlines()[-1], done.output
    assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()
