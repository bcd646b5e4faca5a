"""Rewards: guards, the head, agreement, and the shipped mini rewards on sounds whose order is known."""

import numpy as np
import pytest
import torch

from rlloop.data.prompts import shipped_prompts
from rlloop.models.text import PromptFeatures
from rlloop.recipes.mini_heads import apply_head, fit_head, info_nce
from rlloop.rewards.agreement import bootstrap_interval, pearson, right_of_ten, spearman, within_system_spearman
from rlloop.rewards.alignment import AlignmentHead
from rlloop.rewards.base import Clip, Reward, Score
from rlloop.rewards.mini import MINI_NAMES, mini_rewards
from rlloop.rewards.tunejury import TuneJuryHead

RATE = 16_000
PROMPT = shipped_prompts()[0]


def music(seconds: float = 5.0, rate: int = RATE, prompt: str = PROMPT) -> Clip:
    """A plucked arpeggio over a bass note."""
    t = np.arange(int(seconds * rate)) / rate
    notes = 220 * 2 ** (np.array([0, 4, 7, 12])[(t / 0.25).astype(int) % 4] / 12)
    envelope = np.exp(-6 * (t % 0.25))
    tones = sum(np.sin(2 * np.pi * k * notes * t) / k for k in (1, 2, 3)) * envelope + np.sin(2 * np.pi * 110 * t)
    return Clip((0.15 * tones).astype(np.float32), rate, prompt)


def changed(clip: Clip, audio: np.ndarray) -> Clip:
    return Clip(audio.astype(np.float32), clip.sample_rate_hz, clip.prompt)


@pytest.fixture(scope="module")
def rewards() -> dict[str, Reward]:
    torch.set_num_threads(1)
    return {reward.name: reward for reward in mini_rewards(MINI_NAMES, PromptFeatures().encode)}


# Scores; the guards have their own file


@pytest.mark.parametrize("arguments", [(None, None), (1.0, "why")])
def test_a_score_is_a_value_or_a_reason(arguments):
    with pytest.raises(ValueError, match="either"):
        Score(*arguments)


# The head


def test_the_release_has_its_published_size():
    state = TuneJuryHead((2048, 1024, 512, 256, 128, 1)).state_dict()
    assert len(state) == 30
    trained = (v.numel() for k, v in state.items() if k.endswith(("weight", "bias")))
    assert sum(trained) == 2_791_169


@pytest.mark.parametrize("prefix", ["net.", "score."])
@pytest.mark.parametrize("widths", [(6, 1), (6, 5, 1), (8, 7, 6, 5, 4, 1)])
def test_heads_of_any_width_and_prefix_load(prefix, widths):
    head = TuneJuryHead(widths).eval()
    state = {prefix + key.removeprefix("net."): value for key, value in head.state_dict().items()}
    x, y = torch.randn(3, widths[0]), torch.randn(3, widths[0])
    loaded = TuneJuryHead.from_state_dict(state)
    assert loaded(x).shape == (3,)
    assert torch.equal(loaded(x), head(x))
    assert torch.allclose(loaded(x, y), head(x) - head(y))


@pytest.mark.parametrize("state", [{}, {"model.0.weight": torch.zeros(1, 2)}, {"net.1.weight": torch.zeros(3)}])
def test_what_is_no_head_is_refused(state):
    with pytest.raises(ValueError, match="not a TuneJury head"):
        TuneJuryHead.from_state_dict(state)


def test_the_fitted_head_is_the_clamped_ridge():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((50, 4)), rng.standard_normal(50)
    state = fit_head(x, y, clamp=1.5, ridge=0.3)
    z = np.clip((x - x.mean(0)) / x.std(0), -1.5, 1.5)
    zc = z - z.mean(0)
    w = np.linalg.solve(zc.T @ zc / 50 + 0.3 * np.eye(4), zc.T @ (y - y.mean()) / 50)
    assert np.allclose(apply_head(state, x), y.mean() + zc @ w, atol=1e-5)
    far = apply_head(state, np.array([[1e6, -1e6, 1e6, 0.0]]))  # bounded, however strange the features
    assert abs(far[0] - y.mean()) < 2 * 1.5 * np.abs(w).sum()


def test_alignment_is_a_mean_cosine():
    head = AlignmentHead.from_state_dict(
        {
            "audio": torch.stack([torch.eye(2), torch.eye(2)]),
            "audio_bias": torch.zeros(2, 1, 2),
            "text": torch.stack([torch.eye(2), -torch.eye(2)]),
            "text_bias": torch.zeros(2, 1, 2),
        }
    )
    assert head(torch.tensor([[3.0, 4.0]]), torch.tensor([[5.0, 0.0]])).item() == pytest.approx(0.0)  # 0.6 and -0.6


def test_info_nce_of_indifference_is_log_n():
    assert info_nce(torch.ones(8, 3), torch.ones(8, 3), 0.1).item() == pytest.approx(np.log(8))


# Agreement


def test_correlations_by_hand():
    assert pearson(np.array([1.0, 2, 3]), np.array([1.0, 2, 4])) == pytest.approx(3 / np.sqrt(2 * 14 / 3))
    assert spearman(np.array([1.0, 5, 9]), np.array([0.1, 0.2, 99])) == pytest.approx(1)
    assert np.isnan(pearson(np.ones(3), np.arange(3.0)))
    system = np.array(["a", "a", "a", "b", "b", "b"])
    within = within_system_spearman(np.array([1, 2, 3, 13, 12, 11.0]), np.array([1, 2, 3, 11, 12, 13.0]), system)
    assert within == pytest.approx({"a": 1.0, "b": -1.0})


def test_right_of_ten():
    assert right_of_ten(np.eye(10), np.arange(10)) == 1.0
    assert right_of_ten(-np.eye(10), np.arange(10)) == 0.0
    # Of 19 others, 18 are below: nine of them drawn avoid the one above with probability 10 / 19.
    similarity = np.concatenate([[5.0], [9.0], np.zeros(18)])[None]
    assert right_of_ten(similarity, np.array([0])) == pytest.approx(10 / 19)
    noise = np.random.default_rng(0).standard_normal((4000, 20))
    assert right_of_ten(noise, np.zeros(4000, int)) == pytest.approx(0.1, abs=0.02)


def test_bootstrap_draws_whole_groups():
    values, groups = np.array([0.0, 0, 1, 1]), np.array([0, 0, 1, 1])
    assert bootstrap_interval(lambda rows: values[rows].mean(), groups) == (0.0, 1.0)


# The shipped rewards


def test_every_mini_reward_scores_every_clip(rewards):
    clips = [music(), music(3.7), music(rate=44_100), changed(music(), music().audio * np.nan), music(1.5)]
    for reward in rewards.values():
        assert isinstance(reward, Reward)
        scores = reward.score(clips)
        assert [score.value is None for score in scores] == [False, False, False, True, False]
        assert scores[0].value == pytest.approx(scores[2].value, abs=0.1)  # the sample rate hardly matters
        assert reward.score(clips[:1])[0].value == pytest.approx(scores[0].value, abs=1e-3)  # nor does the batch


@pytest.mark.parametrize("name", ["tunejury_mini", "judge_mini"])
def test_level_does_not_matter_and_noise_does(rewards, name):
    clip = music()
    noise = np.random.default_rng(0).standard_normal(len(clip.audio)) * 0.2
    scores = rewards[name].score([clip, changed(clip, clip.audio * 0.1), changed(clip, noise)])
    assert scores[1].value == pytest.approx(scores[0].value, abs=1e-2)
    assert scores[2].value < scores[0].value


def test_the_two_rewards_of_one_ear_hear_a_batch_once(rewards):
    ear = rewards["tunejury_mini"].ear
    assert rewards["alignment_mini"].ear is ear and rewards["judge_mini"].ear is not ear
    clips = [music()]
    first = ear.hear(clips)
    assert ear.hear(list(clips)) is first
    assert ear.hear([music()]) is not first


def test_alignment_says_why_a_prompt_has_no_score():
    def encode(prompts):
        if prompts[0] == "unknown":
            raise ValueError("no encoder for 'unknown'")
        return PromptFeatures().encode(prompts)

    (reward,) = mini_rewards(["alignment_mini"], encode)
    unknown, known = reward.score([music(prompt="unknown"), music()])
    assert unknown.reason == "no encoder for 'unknown'" and -1 <= known.value <= 1


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="expected one of"):
        mini_rewards(["clap"], PromptFeatures().encode)
