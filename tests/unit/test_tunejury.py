"""The reward `tunejury`: its head against the golden case, blocks and prompts, and clips that fail by themselves."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import ClapModel

from rlloop.rewards.base import Clip, Reward
from rlloop.rewards.clap import ClapEmbedder
from rlloop.rewards.mert import MertEmbedder
from rlloop.rewards.tunejury import TuneJury, TuneJuryHead, check_blocks, load_head, tunejury
from rlloop.weights.clap import to_laion
from tests.golden.cases import arrays, drawn_inputs, fill
from tests.tiny_encoders import clap_config, make_clap_tokenizer
from tests.unit.test_mert import make_folder

RATE = 16_000
RELEASE = (2048, 1024, 512, 256, 128, 1)


class FakeEar:
    """Features [B, D] that are a clip's mean square, its length and its rate; refuses what it is told to.

    A prompt's features are a hundredth of its length. `batches` counts the clips of each call that went well.
    """

    def __init__(self, dim: int, most: int = 100):
        self.dim, self.most = dim, most
        self.batches: list[int] = []
        self.prompts: list[str] = []

    def audio(self, waves: Sequence[np.ndarray], rates_hz: Sequence[int]) -> Tensor:
        if len(waves) > self.most:
            raise RuntimeError("out of memory\nand more")
        if 22_050 in rates_hz:
            raise ValueError("22050 Hz cannot be resampled")
        self.batches.append(len(waves))
        rows = [[float(np.mean(w**2)), len(w) / 1e5, r / 1e5] for w, r in zip(waves, rates_hz, strict=True)]
        return torch.cat([torch.tensor(rows), torch.zeros(len(rows), self.dim - 3)], dim=1)

    def text(self, prompts: Sequence[str]) -> Tensor:
        self.prompts += prompts
        return torch.tensor([[len(prompt) / 100] * self.dim for prompt in prompts])


def clip(level: float = 0.1, prompt: str = "a prompt", rate: int = RATE, seconds: float = 1.0) -> Clip:
    t = np.arange(int(seconds * rate)) / rate
    return Clip((level * np.sin(2 * np.pi * 220 * t)).astype(np.float32), rate, prompt)


def make_head(width: int, seed: int = 0) -> TuneJuryHead:
    torch.manual_seed(seed)
    return TuneJuryHead((width, 8, 1)).eval()


def make_reward(**options) -> TuneJury:
    clap, mert = FakeEar(512), FakeEar(1024, most=options.pop("most", 100))
    return TuneJury(make_head(options.pop("width", 2048)), clap, mert, **options)


def test_the_head_agrees_with_the_reference():
    head = fill(TuneJuryHead(RELEASE))
    found, inputs = arrays("tunejury"), drawn_inputs("tunejury")
    a, b = inputs["a"], inputs["b"]
    with torch.no_grad():
        ours = {"score": head(a), "margin": head(a, b)}
    assert found.keys() == ours.keys()
    for name, value in ours.items():
        assert (value - found[name]).abs().max() <= 1e-5 * found[name].abs().max()


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}], ids=["plain", "state_dict"])
@pytest.mark.parametrize("prefix", ["net.", "score."])
def test_a_head_loads_from_a_torch_file(tmp_path, wrap, prefix):
    head = make_head(6)
    state = {prefix + key.removeprefix("net."): value for key, value in head.state_dict().items()}
    torch.save(wrap(state), tmp_path / "head.pt")
    x = torch.randn(3, 6)
    assert torch.equal(load_head(tmp_path / "head.pt")(x), head(x))


def test_a_forerunner_of_width_1024_loads(tmp_path):
    head = fill(TuneJuryHead((1024, 512, 256, 128, 64, 1)))
    save_file({key.replace("net.", "score."): value for key, value in head.state_dict().items()}, tmp_path / "muq.st")
    assert load_head(tmp_path / "muq.st").num_features == 1024


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"net.0.weight": torch.full((1, 2), torch.nan), "net.0.bias": torch.zeros(1)}, "net.0.weight holds values"),
        ({"net.0.weight": torch.zeros(1, 2)}, "not a TuneJury head"),
        ({"net.x.weight": torch.zeros(1, 2)}, "found net.x.weight"),
        ({"conv.weight": torch.zeros(1, 2)}, "expected keys under"),
    ],
)
def test_a_file_that_is_no_head_is_refused_by_name(tmp_path, state, message):
    path = tmp_path / "head.safetensors"
    save_file(state, path)
    with pytest.raises(ValueError, match=message) as error:
        load_head(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_blocks_lie_side_by_side_and_an_empty_prompt_is_zeros():
    reward = make_reward()
    x = reward.embed([clip(0.1, "abc"), clip(0.3, ""), clip(0.3, " ")])
    assert x.shape == (3, 2048)
    assert x[0, :3].tolist() == pytest.approx([0.005, 0.16, 0.16], rel=1e-3)  # CLAP audio first
    assert torch.equal(x[:, 512:515], x[:, :3])  # then MERT
    assert torch.equal(x[:, 1536:], torch.tensor([0.03, 0, 0])[:, None].expand(3, 512))  # then CLAP text
    assert reward.clap.prompts == ["abc"]  # the empty ones were never asked for


def test_scores_are_the_heads():
    reward = make_reward()
    assert isinstance(reward, Reward) and reward.name == "tunejury"
    clips = [clip(0.1, "abc"), clip(0.2, ""), clip(0.3, seconds=1.5)]
    found = [score.value for score in reward.score(clips)]
    assert found == pytest.approx(reward.head(reward.embed(clips)).tolist())
    assert len(set(found)) == 3
    for one, value in zip(clips, found, strict=True):
        assert reward.score([one])[0].value == pytest.approx(value, abs=1e-6)


def test_the_prompt_may_be_left_out():
    deaf = make_reward(prompts="empty").score([clip(0.1, "abc"), clip(0.1, "")])
    assert deaf[0].value == deaf[1].value
    assert make_reward().score([clip(0.1, "abc")])[0].value != deaf[0].value
    with pytest.raises(ValueError, match="'prefix', expected one of caption, empty"):
        make_reward(prompts="prefix")


def test_a_head_of_fewer_blocks_names_them():
    alone = make_reward(width=512, features=["clap"])
    assert alone.embed([clip()]).shape == (1, 512) and alone.mert.batches == []
    assert make_reward(width=1536, features=["mert", "clap"]).features == ("clap", "mert")
    message = "the head takes 1024 features, but clap 512 . mert 1024 . text 512 make 2048"
    with pytest.raises(ValueError, match=message):
        make_reward(width=1024)
    with pytest.raises(ValueError, match="the head takes 2048 features, but mert 1024 make 1024"):
        check_blocks(["mert"], 2048)
    with pytest.raises(ValueError, match="features muq, expected some of clap, mert, text"):
        check_blocks(["clap", "muq"], 512)
    with pytest.raises(ValueError, match="mert is 1024 features, there is no ear"):
        TuneJury(make_head(2048), FakeEar(512), None)
    assert TuneJury(make_head(1024), None, FakeEar(1024), features=["mert"]).score([clip()])[0].value is not None


def test_a_clip_that_fails_costs_only_itself():
    reward = make_reward()
    silent = Clip(np.zeros(RATE, np.float32), RATE, "")
    clips = [clip(0.1), clip(0.2, rate=22_050), clip(0.3), silent, clip(0.4)]
    scores = reward.score(clips)
    assert [score.value is None for score in scores] == [False, True, False, True, False]
    assert scores[1].reason == "ValueError: 22050 Hz cannot be resampled"
    assert "silent" in scores[3].reason
    for row in (0, 2, 4):
        assert scores[row].value == pytest.approx(make_reward().score([clips[row]])[0].value, abs=1e-6)


def test_too_little_memory_means_smaller_batches():
    reward = make_reward(most=2)
    assert all(score.value is not None for score in reward.score([clip(0.1 + n / 100) for n in range(7)]))
    assert reward.mert.batches == [1, 2, 2, 2]
    none = make_reward(most=0).score([clip()])
    assert none[0].reason == "RuntimeError: out of memory"


def test_nothing_to_score():
    assert make_reward().score([]) == []


def test_it_is_built_from_weights(tmp_path):
    make_folder(tmp_path / "mert", hidden_size=1024, num_hidden_layers=1, num_conv_pos_embeddings=2)
    save_file(make_head(1024).state_dict(), tmp_path / "head.safetensors")
    reward = tunejury(tmp_path / "head.safetensors", mert=tmp_path / "mert", features=["mert"], device="cpu")
    assert reward.clap is None and reward.score([clip(), clip(seconds=1.5)])[1].value is not None
    make_folder(tmp_path / "small")
    with pytest.raises(ValueError, match="mert is 1024 features, the ear gives 32"):
        tunejury(tmp_path / "head.safetensors", mert=tmp_path / "small", features=["mert"], device="cpu")
    with pytest.raises(ValueError, match="neither an existing path nor a known name"):
        tunejury("no_such_head")


def test_real_ears_give_a_clip_in_a_mixed_batch_what_it_gets_alone(tmp_path):
    config = clap_config()
    config.projection_dim = config.text_config.projection_dim = config.audio_config.projection_dim = 512
    torch.manual_seed(0)
    state = {"module." + key: value for key, value in to_laion(ClapModel(config).state_dict()).items()}
    torch.save({"state_dict": state}, tmp_path / "clap.pt")
    make_clap_tokenizer(tmp_path / "tokenizer")
    make_folder(tmp_path / "mert", hidden_size=1024, num_hidden_layers=1, num_conv_pos_embeddings=2)

    def new_reward() -> TuneJury:  # each with ears of its own: CLAP remembers what it heard
        clap = ClapEmbedder(tmp_path / "clap.pt", tmp_path / "tokenizer", "cpu", config=config)
        return TuneJury(make_head(2048), clap, MertEmbedder.from_folder(tmp_path / "mert", "cpu"))

    clips = [
        clip(0.1, "slow waltz"),
        clip(0.2, "", rate=44100),
        clip(0.1, "jazz", rate=48000, seconds=11.0),  # CLAP crops it
        clip(0.3, "a much longer prompt of piano and drums"),
        clip(0.1, "noise", seconds=2.5),
    ]
    together = [score.value for score in new_reward().score(clips)]
    alone = [new_reward().score([one])[0].value for one in clips]
    assert together == pytest.approx(alone, abs=1e-4) and len(set(together)) == 5
