"""The stage table against gains worked out by hand, and what it refuses."""

import json
import math

import pytest

from rlloop.evaluation.decomposition import Stage, decompose, over_runs
from rlloop.evaluation.distances import Distance, distance_gain

PAIRS = [(f"prompt {number}", (1, 2)) for number in range(4)]


def distance(value: float, n: int = 8, reference: str = "abc") -> Distance:
    return Distance("frechet_mini", value, n, reference, 180)


def stage(name: str, offset: float, slope: float, far: Distance) -> Stage:
    """Prompt p has the mean offset + slope * p on both its seeds together."""
    scores = {"reward": [[offset + slope * p - 1, offset + slope * p + 1] for p in range(4)]}
    return Stage(name, scores, PAIRS, {"frechet_mini": far})


def test_each_stage_is_compared_with_the_one_before_it():
    rows = decompose(
        [stage("baseline", 0, 1, distance(9)), stage("sft", 1, 2, distance(7)), stage("crpo", 1, 2, distance(7.5))]
    )
    assert [row["stage"] for row in rows] == ["baseline", "sft", "crpo"]
    first, second, third = (row["scores"]["reward"] for row in rows)
    assert first["mean"] == 1.5 and first["gain"] is None and first["p"] is None
    # Gains 1, 2, 3, 4: mean 2.5, t = 2.5 / (sqrt(5/3) / 2) with 3 degrees of freedom.
    u = 2.5 / (math.sqrt(5 / 3) / 2) / math.sqrt(3)
    assert second["gain"] == 2.5 and second["p"] == pytest.approx(1 - 2 / math.pi * (math.atan(u) + u / (1 + u * u)))
    assert 1 <= second["ci_low"] < 2.5 < second["ci_high"] <= 4 and second["num_prompts"] == 4
    assert (third["gain"], third["p"]) == (0.0, 1.0)
    assert [row["distances"]["frechet_mini"]["gain"] for row in rows] == [None, -2.0, 0.5]
    assert {row["distances"]["frechet_mini"]["n"] for row in rows} == {8}
    json.dumps(rows, allow_nan=False)


def test_a_missing_score_is_left_out_and_counted_never_zero():
    before, after = stage("a", 0, 0, distance(1)), stage("b", 5, 0, distance(1))
    gone = Stage("b", {"reward": [[None, None], *after.scores["reward"][1:]]}, PAIRS)
    cell = decompose([before, gone])[1]["scores"]["reward"]
    assert (cell["mean"], cell["gain"], cell["num_prompts"], cell["num_missing"]) == (5.0, 5.0, 3, 2)
    nothing = Stage("b", {"reward": [[None, None]] * 4}, PAIRS)
    cell = decompose([before, nothing])[1]["scores"]["reward"]
    assert (cell["mean"], cell["gain"], cell["p"], cell["num_prompts"]) == (None, None, None, 0)


def test_other_prompts_are_refused():
    other = Stage("b", {"reward": [[1.0, 2.0]] * 4}, [*PAIRS[:3], ("prompt 3", (1, 9))])
    with pytest.raises(ValueError, match="a and b were evaluated on other prompts or seeds"):
        decompose([stage("a", 0, 0, distance(1)), other])


@pytest.mark.parametrize(
    ("far", "note"), [(distance(1, n=7), "sets of 8 and 7 clips"), (distance(1, reference="def"), "use one reference")]
)
def test_distances_that_cannot_be_compared_have_no_gain_but_a_reason(far, note):
    cell = decompose([stage("a", 0, 0, distance(2)), stage("b", 0, 0, far)])[1]["distances"]["frechet_mini"]
    assert cell["gain"] is None and note in cell["note"] and cell["value"] == 1 and cell["n"] == far.n


def test_another_number_of_clips_has_to_be_allowed():
    with pytest.raises(ValueError, match="frechet_mini: sets of 8 and 7 clips"):
        distance_gain(distance(2), distance(1, n=7))
    assert distance_gain(distance(2), distance(1, n=7), allow_other_n=True) == -1
    with pytest.raises(ValueError, match="reference abc .* against def"):
        distance_gain(distance(2), distance(1, reference="def"), allow_other_n=True)


def test_over_runs_by_hand():
    tables = [decompose([stage("a", 0, 0, distance(3)), stage("b", g, 0, distance(3 - g))]) for g in (1.0, 2.0, 3.0)]
    first, second = over_runs(tables)
    assert first["gains"]["reward"] == {"mean": None, "num_runs": 0, "ci_low": None, "ci_high": None, "p": None}
    gain = second["gains"]["reward"]
    half = 4.302652729911275 / math.sqrt(3)  # the 97.5 % point of t with 2 degrees of freedom, times 1 / sqrt(3)
    assert gain["mean"] == 2 and gain["num_runs"] == 3
    assert (gain["ci_low"], gain["ci_high"]) == (pytest.approx(2 - half), pytest.approx(2 + half))
    t = 2 * math.sqrt(3)  # with 2 degrees of freedom p = 1 - t / sqrt(2 + t^2)
    assert gain["p"] == pytest.approx(1 - t / math.sqrt(2 + t * t))
    assert second["gains"]["frechet_mini"]["mean"] == -2
    with pytest.raises(ValueError, match="no common table"):
        over_runs([tables[0], tables[1][:1]])
