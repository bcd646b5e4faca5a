"""The alarm's rule: what sets it off, what does not, and how its level is shared out."""

import numpy as np
import pytest

from rlloop.evaluation.alarm import Evaluated, corrected_level, look, spans, squared_shift
from rlloop.evaluation.trends import UNKNOWN, mean_product, prompt_values, score_trend, shift_trend, slope_weights

P, S, D = 12, 2, 6
ORIGIN = np.zeros(D)


def run(reward: list[float], judge: list[float], shift: list[float] | None = None, spread: float = 0.1, seed: int = 0):
    """Evaluations of versions 0, 1, ... around these means; the shift is along one axis."""
    rng = np.random.default_rng(seed)
    axis = np.eye(D)[0]
    return [
        Evaluated(
            version,
            {"reward": r + spread * rng.standard_normal((P, S)), "judge": j + spread * rng.standard_normal((P, S))},
            {"shift": rng.standard_normal((P, S, D)) + axis * m},
        )
        for version, (r, j, m) in enumerate(zip(reward, judge, shift or [0.0] * len(reward), strict=True))
    ]


def alarms(history, judges=("judge",), **settings):
    settings = {"num_planned": len(history), **settings}
    return [f for f in look(history, "reward", judges, **settings) if f.is_alarm]


def test_reward_up_and_judge_down_is_the_alarm():
    history = run([0.0, 0.2, 0.4, 0.6], [0.5, 0.4, 0.3, 0.2])
    (finding,) = alarms(history)
    assert (finding.judge, finding.first_version, finding.version, finding.best_version) == ("judge", 0, 3, 0)
    assert finding.change == pytest.approx(-0.3, abs=0.1) and finding.reward_change == pytest.approx(0.6, abs=0.1)
    assert "judge was best at version 0" in str(finding) and "\n" not in str(finding)


@pytest.mark.parametrize(
    ("reward", "judge"),
    [
        ([0.0, 0.2, 0.4, 0.6], [0.2, 0.3, 0.4, 0.5]),  # both rise
        ([0.6, 0.4, 0.2, 0.0], [0.5, 0.4, 0.3, 0.2]),  # both fall: bad, but no hack
        ([0.0, 0.2, 0.4, 0.6], [0.3, 0.3, 0.3, 0.3]),  # the judge stays
        ([0.3, 0.3, 0.3, 0.3], [0.3, 0.3, 0.3, 0.3]),
    ],
)
def test_everything_else_is_not(reward, judge):
    assert not alarms(run(reward, judge))


def test_one_fall_is_not_several():
    assert not alarms(run([0.0, 1.0], [1.0, 0.0]))
    assert len(alarms(run([0.0, 1.0, 2.0], [1.0, 0.5, 0.0]))) == 1


def test_a_judge_that_rose_first_is_caught_by_the_short_span():
    history = run([0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2], [0.0, 0.3, 0.6, 0.9, 0.8, 0.7, 0.6])
    assert [(f.first_version, f.best_version, f.ranking) for f in alarms(history)] == [(3, 3, (3, 4, 5, 6))]


def test_a_shift_from_the_reference_is_a_judge_without_scores():
    away, towards = [0.0, 1.0, 2.0, 3.0], [3.0, 2.0, 1.0, 0.0]
    rise, flat = [0.0, 0.2, 0.4, 0.6], [0.3] * 4
    references = {"shift": ORIGIN}
    (finding,) = alarms(run(rise, flat, away), ["judge", "shift"], references=references)
    assert finding.judge == "shift" and finding.change > 3 and finding.ranking == (0, 1, 2, 3)
    assert not alarms(run(rise, flat, towards), ["judge", "shift"], references=references)


def test_missing_scores_cost_their_pairs_and_too_few_prompts_say_nothing():
    history = run([0.0, 0.2, 0.4], [0.5, 0.3, 0.1])
    history[1].scores["judge"][:3] = np.nan
    assert len(alarms(history)) == 1
    history[2].scores["judge"][3:9] = np.nan
    (finding,) = look(history, "reward", ["judge"], num_planned=3)
    assert finding.p_value == 1 and not finding.is_alarm


def test_an_unknown_judge_is_one_line():
    with pytest.raises(ValueError, match="version 0 has no 'ear'; it has"):
        alarms(run([0.0] * 3, [0.0] * 3), ["ear"])


def test_spans_and_their_share_of_the_level():
    assert [spans(count, 4) for count in range(1, 7)] == [[], [], [3], [4], [5, 4], [6, 4]]
    # Looks at 3, 4, 5 and 6 evaluations make 1 + 1 + 2 + 2 tests, for each of two judges.
    assert corrected_level(0.05, 6, 4, 2) == pytest.approx(0.05 / 12)
    assert corrected_level(0.05, 2, 4, 2) == 0.05 / 1


def test_more_evaluations_than_planned_share_the_level_too():
    history = run([0.0] * 6, [0.0] * 6)
    assert look(history, "reward", ["judge"], num_planned=3, level=0.06)[0].level == pytest.approx(0.01)


def test_the_slope_by_hand():
    assert slope_weights([0, 1, 2]) == pytest.approx([-1, 0, 1])
    assert slope_weights([0, 1, 2, 3]) @ [5, 5.2, 5.4, 5.6] == pytest.approx(0.6)
    assert slope_weights([0, 2, 6]) @ [1, 3, 7] == pytest.approx(6)  # versions between were not evaluated
    # Two prompts rise by 1 and two by 3 over the span: mean 2, sd 2 / sqrt(3), t = 2 / (sd / 2) = 2 sqrt(3), 3 d.f.
    scores = np.array([[[0.0]] * 4, [[0.5], [0.5], [1.5], [1.5]], [[1.0], [1.0], [3.0], [3.0]]])
    trend = score_trend(scores, [0, 1, 2], direction=1)
    u = 2.0
    p = 0.5 - (np.arctan(u) + u / (1 + u * u)) / np.pi
    assert (trend.change, trend.num_prompts) == (2.0, 4) and trend.p_value == pytest.approx(p)
    assert score_trend(scores, [0, 1, 2], direction=-1).p_value == pytest.approx(1 - p)


def test_equal_slopes_are_certain_and_no_slope_is_nothing():
    rising = np.arange(3.0)[:, None, None] + np.zeros((3, 5, 1))
    assert [score_trend(rising, [0, 1, 2], direction=d).p_value for d in (1, -1)] == [0.0, 1.0]
    assert score_trend(rising * 0, [0, 1, 2], direction=-1).p_value == 1.0
    assert score_trend(rising[:, :3], [0, 1, 2], direction=1) == UNKNOWN


def test_the_shift_has_no_bias_from_the_number_of_prompts():
    rng = np.random.default_rng(0)
    truth = 0.5 * np.ones(D)
    found = [squared_shift(truth + rng.standard_normal((3, 1, D)), ORIGIN) for _ in range(4000)]
    assert np.mean(found) == pytest.approx(truth @ truth, abs=0.1)  # the plain one would be 2 higher
    x = rng.standard_normal((3, D))
    expected = (x[0] @ x[1] + x[0] @ x[2] + x[1] @ x[2]) / 3
    assert mean_product(x @ x.T) == pytest.approx(expected)


def test_prompt_values_leave_out_what_is_missing_at_any_version():
    values = np.arange(12.0).reshape(2, 3, 2, 1)
    values[1, 0, 1] = np.nan  # the second seed of prompt 0, at version 1
    values[0, 2] = np.nan  # all of prompt 2
    assert prompt_values(values)[..., 0].tolist() == [[0.0, 2.5], [6.0, 8.5]]


def test_the_shift_keeps_its_level_where_every_prompt_moves_in_its_own_way():
    """Under the null p-values are below a level about as often as it says: a prompt's versions are no repeats."""
    rng = np.random.default_rng(0)
    start = rng.standard_normal((400, 1, 20, 1, D))
    walks = np.cumsum(rng.standard_normal((400, 4, 20, 1, D)), axis=1)  # prompts wander apart, their mean by chance
    p = np.array([shift_trend(one, [0, 1, 2, 3], ORIGIN).p_value for one in start + walks])
    assert np.mean(p <= 0.05) < 0.1 and np.mean(p <= 0.5) == pytest.approx(0.5, abs=0.1)


def test_a_judge_that_is_missing_once_does_not_silence_the_alarm():
    history = run([0.0, 0.2, 0.4, 0.6, 0.8], [0.8, 0.6, 0.4, 0.2, 0.0])
    history[2].scores["judge"][:] = np.nan
    assert alarms(history) and not alarms(history[:3])  # none at the gap itself
