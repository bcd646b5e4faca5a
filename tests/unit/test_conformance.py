"""The conformance command: the cheap golden cases, small made-up folders with other settings, and folders that lie."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from typer.testing import CliRunner

from rlloop.conformance import app
from rlloop.models.autoencoder import Autoencoder
from rlloop.models.bigvgan import BigVGAN, BigVGANSpec
from rlloop.models.fluxaudio import FluxAudio, FluxAudioSpec
from rlloop.recipes.conformance import Outcome, run_cases
from rlloop.recipes.golden_case import Tolerance, read_index, rows_of
from rlloop.recipes.golden_kinds import KINDS
from rlloop.recipes.golden_rule import array, fill, value
from tests.golden.cases import FOLDER

CHEAP = ("mel_sub1_0", "tunejury", "crpo", "frechet")  # networks of full size: tests of each, and the command itself
SPEC = FluxAudioSpec(
    num_heads=2, depth=2, fused_depth=1, latent_dim=5, latent_seq_len=6, text_dim=8, text_c_dim=7, text_seq_len=4,
    use_rope=False,
)  # fmt: skip
NETWORK = {"heads": 2, "depth": 2, "fused_depth": 1, "use_rope": False, "salt": 3}
TEXT = {"text": ["p", [2, 4, 8], 0.3], "text_c": ["c", [2, 7], 0.05]}


def write(folder: Path, entries: dict, expected: dict[str, dict] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "index.json").write_text(json.dumps(entries), encoding="utf-8")
    for name, arrays in (expected or {}).items():
        np.savez(folder / f"{name}.npz", **{key: np.asarray(a) for key, a in arrays.items()})
    return folder


def run_one(folder: Path, entry: dict, expected: dict, given: dict | None = None) -> Outcome:
    """The outcome of a folder with one case; one whose numbers are off by 1e-3 must fail.

    Args:
        given: inputs in the npz.
    """
    arrays = {name: np.asarray(a) for name, a in (expected | (given or {})).items()}
    write(folder, {"case": entry}, {"case": arrays})
    (outcome,) = run_cases(folder, read_index(folder))
    for name in expected:
        off = arrays[name] + 1e-3 * np.abs(arrays[name]).max()
        write(folder, {"case": entry}, {"case": arrays | {name: off}})
        (other,) = run_cases(folder, read_index(folder))
        assert not other.has_passed and other.array == name and other.difference == pytest.approx(1e-3, rel=0.1)
    return outcome


def assert_passes(outcome: Outcome) -> None:
    assert outcome.has_passed and not outcome.remarks, outcome


def test_cheap_golden_cases_hold():
    index = read_index(FOLDER)
    outcomes = list(run_cases(FOLDER, {name: index[name] for name in CHEAP}))
    assert [outcome.name for outcome in outcomes if outcome.has_passed and not outcome.remarks] == list(CHEAP)


def test_the_folder_is_complete_and_every_kind_is_known():
    index = read_index(FOLDER)
    assert len(index) == 12
    assert {entry["kind"] for entry in index.values()} <= KINDS.keys()
    assert all((FOLDER / f"{name}.npz").is_file() for name in index)


def small_network(salt: int = 3) -> FluxAudio:
    network = FluxAudio(SPEC).eval()
    state = {key: torch.from_numpy(value(key, tuple(t.shape), salt)) for key, t in network.state_dict().items()}
    network.load_state_dict(state)
    return network


def drawn(*rule) -> torch.Tensor:
    return torch.from_numpy(array(*rule))


@torch.no_grad()
def test_forward_with_other_sizes_and_salt(tmp_path):
    network, x, t = small_network(), drawn("q", [2, 6, 5]), [0.2, 0.9]
    features = {"text": drawn(*TEXT["text"]), "text_c": drawn(*TEXT["text_c"])}
    mean, std = (torch.from_numpy(value(key, (1, 1, 5), 3)) for key in ("latent_mean", "latent_std"))
    expected = {
        "velocity": network(x, torch.tensor(t), features),
        "normalized": ((x - mean) / std)[:, :3],
        "unnormalized": (x * std + mean)[:, :3],
    }
    entry = NETWORK | {"kind": "fluxaudio_forward", "inputs": {"x": ["q", [2, 6, 5], 1.0], "t": t, **TEXT}}
    assert_passes(run_one(tmp_path, entry, expected))
    for changed in ({"salt": 4}, {"use_rope": True}):
        write(tmp_path, {"case": entry | changed}, {"case": expected})
        (outcome,) = run_cases(tmp_path, read_index(tmp_path))
        assert not outcome.has_passed and outcome.difference > 1e-3


SAMPLINGS = [
    {"steps": 3, "cfg": 2.5, "rows": "text and text_c: row 1 only"},
    {"steps": 2, "cfg": 1.5, "rows": {"text": [0], "text_c": [0]}, "solver": "heun"},
    {"steps": 2, "cfg": 0.5, "rows": "text: row 0; text_c: rows 0"},
    {"steps": 4, "cfg": 3.0, "rows": "text, text_c: row 0", "guidance_interval": [0.3, 0.8]},
    {"steps": 2, "cfg": 2.0, "rows": "text and text_c: row 1", "negative": "neg_text and neg_text_c"},
    {"steps": 2, "cfg": 2.0, "clips": 2},
]


@torch.no_grad()
def plain_sampling(settings: dict, rows: list[int], clips: int) -> torch.Tensor:
    """The sampler written out, both branches apart."""
    network, x = small_network(), drawn("noise", [clips, 6, 5])
    text, text_c = drawn(*TEXT["text"])[rows], drawn(*TEXT["text_c"])[rows]
    empty = network.empty_string_feat.expand(clips, 4, 8), network.empty_string_feat_c.expand(clips, 7)
    if "negative" in settings:
        empty = drawn("n", [1, 4, 8], 0.3), drawn("nc", [1, 7], 0.05)
    low, high = settings.get("guidance_interval", (0, 1))

    def velocity(x, time):
        t = torch.full((clips,), time)
        positive = network(x, t, {"text": text, "text_c": text_c})
        if settings["cfg"] < 1 or not low <= time <= high:
            return positive
        negative = network(x, t, {"text": empty[0], "text_c": empty[1]})
        return settings["cfg"] * positive + (1 - settings["cfg"]) * negative

    for k in range(settings["steps"]):
        time, after = 1 - k / settings["steps"], 1 - (k + 1) / settings["steps"]
        v = velocity(x, time)
        if settings.get("solver") == "heun":
            v = (v + velocity(x + (after - time) * v, after)) / 2
        x = x + (after - time) * v
    return x


@pytest.mark.parametrize("settings", SAMPLINGS, ids=range(len(SAMPLINGS)))
def test_sampling_reads_its_settings(settings, tmp_path):
    settings = dict(settings)
    clips = settings.pop("clips", 1)
    rows = [0, 1] if clips == 2 else rows_of(settings["rows"], "text")
    inputs = {"x0": ["noise", [clips, 6, 5], 1.0], **TEXT}
    if "negative" in settings:
        inputs |= {"neg_text": ["n", [1, 4, 8], 0.3], "neg_text_c": ["nc", [1, 7], 0.05]}
    entry = NETWORK | settings | {"kind": "fluxaudio_euler", "inputs": inputs}
    assert_passes(run_one(tmp_path, entry, {"latents": plain_sampling(settings, rows, clips)}))


@torch.no_grad()
def test_autoencoder_of_another_width(tmp_path):
    module = fill(Autoencoder(6, 4, 8, (1, 2)), salt=9)
    mean, std = module.encode(drawn("m", [2, 6, 10]))
    entry = {"kind": "vae", "width": 8, "multipliers": [1, 2], "salt": 9}
    inputs = {"mel": ["m", [2, 6, 10], 1.0], "z": ["z", [3, 4, 5], 1.0]}
    expected = {"mean": mean, "std": std, "decoded": module.decode(drawn("z", [3, 4, 5]))}
    assert_passes(run_one(tmp_path, entry | {"inputs": inputs}, expected))


@pytest.mark.parametrize("names", [["original0", "original1"], ["weight_g", "weight_v"], ["weight"]])
@torch.no_grad()
def test_vocoder_weights_are_drawn_by_the_names_of_the_entry(names, tmp_path):
    module = BigVGAN(BigVGANSpec(5, (4, 2), (8, 4), "tanh", initial_channels=16)).eval()
    if names == ["weight"]:
        module.fold_weight_norm()
    legacy = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    state = {}
    for key, tensor in module.state_dict().items():
        for new, old in legacy.items() if "weight_g" in names else ():
            key = key.replace(new, old)
        state[key] = tensor if "filter" in key else torch.from_numpy(value(key, tuple(tensor.shape), 2))
    module.load_state_dict(state)
    entry = {
        "kind": "vocoder", "mode": "16k", "salt": 2, "initial_channels": 16, "upsample_rates": [4, 2],
        "upsample_kernels": [8, 4], "weight_norm_keys": ["alpha", "beta", "bias", "filter", *names],
        "inputs": {"mel": ["m", [2, 5, 7], 1.0]},
    }  # fmt: skip
    assert_passes(run_one(tmp_path, entry, {"waveform": module(drawn("m", [2, 5, 7]))[:, None]}))


@pytest.mark.parametrize(("prefix", "hidden"), [("net", [6, 4]), ("score.", [5])])
def test_tunejury_head_of_other_widths(prefix, hidden, tmp_path):
    widths, stem = [9, *hidden, 1], prefix.rstrip(".")

    def draw(layer: int, name: str, *shape: int) -> np.ndarray:
        return value(f"{stem}.{layer}.{name}", shape, 5).astype(np.float64)

    def score(x: np.ndarray) -> np.ndarray:
        for i, (before, after) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            x = x @ draw(4 * i, "weight", after, before).T + draw(4 * i, "bias", after)
            if after != 1:
                norm = 4 * i + 1
                x = (x - draw(norm, "running_mean", after)) / np.sqrt(draw(norm, "running_var", after) + 1e-5)
                x = np.maximum(x * draw(norm, "weight", after) + draw(norm, "bias", after), 0)
        return x[:, 0]

    a, b = array("a", (3, 9), 0.2), array("b", (3, 9), 0.2)
    entry = {"kind": "tunejury_head", "hidden": hidden, "prefix": prefix, "salt": 5, "tolerance": "1e-5 relative"}
    entry["inputs"] = {"a": ["a", [3, 9], 0.2], "b": ["b", [3, 9], 0.2]}
    assert_passes(run_one(tmp_path, entry, {"score": score(a), "margin": score(a) - score(b)}))


def test_crpo_reads_beta_and_lambda(tmp_path):
    errors = {name: 0.5 + 1e-3 * array(name, (4,)) for name in ("w", "l", "ref_w", "ref_l")}
    w, loser, ref_w, ref_l = (errors[name][:3].astype(np.float64) for name in errors)
    inside = -0.5 * 300 * ((w - loser) - (ref_w - ref_l))
    expected = {"inside": inside, "loss": np.log1p(np.exp(-inside)).mean() + 0.3 * w.mean()}
    entry = {"kind": "crpo_loss", "beta": 300.0, "lambda_fm": 0.3, "n": 3, "tolerance": "1e-5 relative"}
    assert_passes(run_one(tmp_path, entry, expected, errors))


def test_frechet_reads_offset_and_count(tmp_path):
    gen, ref = array("g", (30, 5), 0.4).astype(np.float64)[:20] + 0.3, array("r", (40, 5), 0.5).astype(np.float64)
    s1, s2 = np.cov(gen, rowvar=False), np.cov(ref, rowvar=False)
    fd = ((gen.mean(0) - ref.mean(0)) ** 2).sum() + np.trace(s1 + s2 - 2 * sqrtm(s1 @ s2).real)
    entry = {"kind": "frechet_distance", "gen_offset": 0.3, "n": 20, "tolerance": "1e-5 relative"}
    entry["inputs"] = {"gen": ["g", [30, 5], 0.4], "ref": ["r", [40, 5], 0.5]}
    assert_passes(run_one(tmp_path, entry, {"fd": fd}))


def test_mel_in_one_mode_with_a_given_stride(tmp_path):
    with np.load(FOLDER / "mel_sub1_0.npz") as file:
        clip, expected = file["waveform"].astype(np.float32) / 32768, file["mel_16k"]
    entry = {"kind": "mel", "mode": "16k", "stride": 3}
    assert_passes(run_one(tmp_path, entry, {"mel": expected}, {"waveform": clip}))


@pytest.mark.parametrize(
    ("text", "bound", "is_absolute"),
    [
        ("1e-4 of the absolute maximum of each expected array", 1e-4, False),
        ("1e-5 relative", 1e-5, False),
        ("2e-3 absolute", 2e-3, True),
        (0.001, 0.001, False),
    ],
)
def test_tolerances(text, bound, is_absolute):
    assert Tolerance.parse(text) == Tolerance(bound, is_absolute)


def crpo_folder(folder: Path, change: dict | None = None, drop: str = "", **arrays) -> Path:
    """The golden case crpo under its name, changed."""
    with np.load(FOLDER / "crpo.npz") as file:
        data = {key: file[key] for key in file.files if key != drop} | arrays
    entry = read_index(FOLDER)["crpo"] | (change or {})
    return write(folder, {"crpo": entry}, {"crpo": data})


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        ({"drop": "loss"}, "crpo.npz holds inside; expected are loss, inside"),
        ({"extra": np.zeros(3)}, "crpo.npz holds loss, inside, extra; expected are loss, inside"),
        ({"drop": "ref_l"}, "input ref_l is neither in the entry nor in the npz"),
        ({"loss": np.float32(np.nan)}, "loss of the npz is empty or not finite"),
        ({"inside": np.zeros((2, 3))}, "inside has the shape [6], the npz has [2, 3]"),
        ({"change": {"kind": "opera"}}, "kind 'opera' is not one of fluxaudio_forward,"),
        ({"change": {"kind": None}}, "kind None is not one of"),
        ({"change": {"tolerance": "tight"}}, "tolerance 'tight' is not understood"),
        ({"change": {"dtype": "bfloat16"}}, "dtype 'bfloat16' is not supported"),
        ({"change": {"rows": "the nice ones"}}, "rows 'the nice ones' is not understood"),
        ({"change": {"beta": "many"}}, "TypeError"),
    ],
)
def test_what_a_case_may_get_wrong(change, remark, tmp_path):
    folder = crpo_folder(tmp_path, **change)
    (outcome,) = run_cases(folder, read_index(folder))
    assert not outcome.has_passed
    assert outcome.remarks[0].startswith(remark) and "\n" not in outcome.remarks[0]


def test_unknown_settings_are_reported(tmp_path):
    folder = crpo_folder(tmp_path, {"label_smoothing": 0.1, "inputs": {"mask": [1.0]}})
    (outcome,) = run_cases(folder, read_index(folder))
    assert outcome.remarks == ("not known, left out: label_smoothing, inputs.mask",)


def test_nan_of_ours_fails(tmp_path):
    folder = crpo_folder(tmp_path, w=np.full(6, np.nan, np.float32))
    (outcome,) = run_cases(folder, read_index(folder))
    assert np.isnan(outcome.difference) and not outcome.has_passed


class Pickled:
    def __reduce__(self):
        return (print, ("executed",))


def test_damaged_files_fail_alone(tmp_path, capsys):
    golden = read_index(FOLDER)["crpo"]
    names = ("gone", "cut", "text", "pickled", "list", "good")
    folder = write(tmp_path, {name: golden for name in names} | {"odd": 3})
    data = (FOLDER / "crpo.npz").read_bytes()
    for name, content in {"cut": data[:-200], "text": b"hello", "good": data}.items():
        (folder / f"{name}.npz").write_bytes(content)
    np.savez(folder / "pickled.npz", loss=np.array([Pickled()], dtype=object))
    with (folder / "list.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    outcomes = {outcome.name: outcome for outcome in run_cases(folder, read_index(folder))}
    assert [name for name, outcome in outcomes.items() if outcome.has_passed] == ["good"]
    assert outcomes["gone"].remarks == ("gone.npz is missing",)
    assert outcomes["odd"].remarks == ("its entry is 3, expected an object",)
    for name in ("cut", "text", "pickled", "list"):
        assert outcomes[name].remarks[0].startswith(f"{name}.npz is not a readable npz: ")
    assert "executed" not in capsys.readouterr().out


def test_command_passes_and_runs_no_code_of_the_folder(tmp_path):
    folder = crpo_folder(tmp_path)
    (folder / "weights.py").write_text("raise SystemExit('executed')", encoding="utf-8")
    done = CliRunner().invoke(app, [str(folder)])
    assert done.exit_code == 0
    row = next(line for line in done.stdout.splitlines() if "crpo" in line)
    assert "loss" in row and "1.0e-05" in row and "pass" in row
    assert "1 of 1 cases pass" in done.stdout and "1 of 1: crpo" in done.stderr


def test_command_fails_with_its_reason(tmp_path):
    done = CliRunner().invoke(app, [str(crpo_folder(tmp_path, loss=np.float32(1.3817)))])
    assert done.exit_code == 1
    assert "FAIL" in done.stdout and "0 of 1 cases pass" in done.stdout


def test_command_runs_chosen_cases():
    done = CliRunner().invoke(app, [str(FOLDER), "--only", "crpo", "--only", "tunejury"])
    assert done.exit_code == 0 and "2 of 2 cases pass" in done.stdout


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (None, [], "is not a folder; expected a folder of golden cases"),
        ("", [], "is not readable as JSON"),
        ("[1]", [], "names no case"),
        ('{"crpo": {}}', ["--only", "opera"], "has no case 'opera'; it has crpo"),
    ],
)
def test_no_such_folder_or_case_is_one_line(content, arguments, message, tmp_path):
    folder = tmp_path / "cases"
    if content is not None:
        folder.mkdir()
        (folder / "index.json").write_text(content, encoding="utf-8")
    done = CliRunner().invoke(app, [str(folder), *arguments])
    assert done.exit_code == 2
    assert message in done.output and done.output.startswith("rlloop: ") and done.output.count("\n") == 1


def test_an_empty_folder_is_one_line(tmp_path):
    done = CliRunner().invoke(app, [str(tmp_path)])
    assert (done.exit_code, done.output.count("\n")) == (2, 1) and "holds no index.json" in done.output


def test_help_has_an_example():
    done = CliRunner().invoke(app, ["--help"])
    assert done.exit_code == 0 and "python -m rlloop.conformance tests/golden --only crpo" in done.output
