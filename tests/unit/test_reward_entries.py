"""Rewards as a configuration names them: entries with options, built-in targets, one's own classes and functions."""

import pytest

from rlloop.config import RewardEntry, build, load, resolve_rewards
from rlloop.models.text import PromptFeatures
from rlloop.preflight import check_devices, check_targets
from rlloop.recipes.scorer import Scorer
from rlloop.rewards.base import Score
from rlloop.rewards.registry import NAMES, make_rewards

HERE = "tests.unit.test_reward_entries"


class Loudest:
    """A reward of one's own, with an option."""

    def __init__(self, scale: float = 1.0):
        self.name = "loudest"
        self.scale = scale

    def score(self, clips):
        return [Score(self.scale * float(abs(clip.audio).max())) for clip in clips]


def loudest_on(device: str) -> Loudest:
    made = Loudest()
    made.device = device
    return made


class Nothing:
    pass


def nothing() -> Nothing:
    return Nothing()


def made(*rewards, **options):
    return make_rewards(rewards, PromptFeatures().encode, **options)


def test_names_paths_and_mappings_are_built_in_order():
    loud = {"name": "loud", "target": f"{HERE}:Loudest", "options": {"scale": 2.0}}
    found = made(loud, "tunejury_mini", f"{HERE}:Loudest", RewardEntry(name="other", target="tunejury_mini"))
    assert [reward.name for reward in found] == ["loudest", "tunejury_mini", "loudest", "tunejury_mini"]
    assert (found[0].scale, found[2].scale) == (2.0, 1.0) and found[1] is found[3]


def test_the_device_is_that_of_the_role_unless_an_option_says_otherwise():
    path = f"{HERE}:loudest_on"
    entry = {"name": "a", "target": path, "options": {"device": "cuda"}}
    assert [reward.device for reward in made(path, entry, device="cpu")] == ["cpu", "cuda"]


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("clap", "expected one of tunejury, clap_score, tunejury_mini"),
        ("no_such_module:A", "No module"),
        (f"{HERE}:B", "has no attribute 'B'"),
        (f"{HERE}:HERE", "is a str, expected a class"),
        (f"{HERE}:Nothing", "is no reward: expected `name` and `score"),
        (f"{HERE}:nothing", "made no reward"),
        ({"name": "a", "target": "tunejury_mini", "options": {"device": "cuda"}}, "tunejury_mini takes no options"),
        ({"name": "a", "target": f"{HERE}:Loudest", "options": {"scael": 1}}, "'scael'; .*:Loudest takes scale"),
        (
            {"name": "a", "target": "clap_score", "options": {"chekpoint": "x"}},
            "clap_score takes checkpoint, tokenizer",
        ),
    ],
)
def test_what_cannot_be_built_gets_one_line(reward, message):
    with pytest.raises(ValueError, match=message) as caught:
        made(reward)
    assert "\n" not in str(caught.value)


def test_official_rewards_are_looked_for_where_weights_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("RLLOOP_WEIGHTS", str(tmp_path))
    assert {"tunejury", "clap_score"} < set(NAMES)
    for name, missing in [("tunejury", "tunejury"), ("clap_score", "clap_scoring")]:
        with pytest.raises(ValueError, match=f"rlloop weights fetch {missing}"):
            made(name)


# The configuration


def config(rewards, scores=None, **more):
    names = [RewardEntry.model_validate(reward).name for reward in rewards]
    stage = {"name": "s", "selection": {"rank_by": {names[0]: 1.0}}, "label_score": names[0]}
    return build(
        {"scorer": {"rewards": rewards}, "evaluation": {"scores": scores or rewards}, "stages": [stage], **more}
    )


def test_an_entry_is_a_name_or_a_mapping_and_comes_back_as_it_was():
    rewards = [
        "tunejury_mini",
        f"{HERE}:Loudest",
        {"name": "loud", "target": f"{HERE}:Loudest", "options": {"scale": 2}},
    ]
    found = config(rewards)
    assert [reward.name for reward in found.scorer.rewards] == ["tunejury_mini", "Loudest", "loud"]
    assert found.model_dump(mode="json")["scorer"]["rewards"] == rewards
    assert build(found.model_dump(mode="json")) == found
    options_only = {"name": "clap_score", "options": {"crop": "centre"}}
    assert config([options_only]).scorer.rewards[0].target == "clap_score"


def test_a_name_in_the_evaluation_means_the_entry_with_its_options():
    loud = {"name": "loud", "target": f"{HERE}:Loudest", "options": {"scale": 2.0}}
    found = config([loud, "alignment_mini"], scores=["loud", "judge_mini"])
    resolved = resolve_rewards(found.evaluation.scores, found)
    assert [(r.target, r.options) for r in resolved] == [(f"{HERE}:Loudest", {"scale": 2.0}), ("judge_mini", {})]
    assert Scorer(found, ["loud"], threads=1).rewards[0].scale == 2.0


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        (["a:X", "b:X"], "scorer.rewards: two are named 'X'"),
        ([{"name": "a", "optons": {}}], "unknown key 'scorer.rewards.0.optons'; did you mean 'options'"),
        ([{"target": "a:X"}], "scorer.rewards.0.name: Field required"),
        ([{"name": "a b"}], "scorer.rewards.0.name: String should match"),
        ([3], "scorer.rewards.0"),
    ],
)
def test_a_mistaken_entry_gets_one_line(rewards, message):
    with pytest.raises(ValueError) as caught:
        load("mini", [f"scorer.rewards={rewards}"])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_foreign_name_outside_the_configuration_gets_one_line():
    with pytest.raises(ValueError, match="reward 'a b': .*; expected a name or package.module:name"):
        resolve_rewards(["a b"], load("mini"))


def test_entries_are_checked_before_anything_starts():
    check_targets(config([{"name": "clap_score", "options": {"crop": "centre"}}]))
    with pytest.raises(ValueError, match="'crops'; clap_score takes"):
        check_targets(config([{"name": "clap_score", "options": {"crops": "centre"}}]))


def test_only_mini_rewards_are_kept_off_a_gpu():
    mini = load("mini", ["scorer.num_gpus=1"])
    with pytest.raises(ValueError, match="scorer.num_gpus is 1.0"):
        check_devices(mini)
    found = config(["clap_score"])
    check_devices(found.model_copy(update={"scorer": found.scorer.model_copy(update={"num_gpus": 1.0})}))
