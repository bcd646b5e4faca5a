"""The alarm: the training reward rises while a held-out judge falls over several evaluations.

A rule, not a service: it is asked after every evaluation with all evaluations so far, and answers with findings. The
chance that judges without any true fall set it off once in a whole run stays below `level`: every test that the plan
foresees gets its share (Bonferroni), the judge's alone, whatever the reward does. bench/alarm.md measures it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlloop.evaluation.statistics import Scores
from rlloop.evaluation.trends import Trend, mean_product, prompt_values, score_trend, shift_trend

MIN_EVALUATIONS = 3  # "several": the start and two more
REWARD_P = 0.05  # of the reward's rise; a condition, so it costs no false alarm


@dataclass(frozen=True, eq=False)
class Evaluated:
    """One evaluated version.

    `scores`: name -> [P, S]; `embeddings`: name of a judge that is a shift -> [P, S, D]; None or NaN where missing.
    """

    version: int
    scores: Mapping[str, Scores]
    embeddings: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Finding:
    """What one judge did from `first_version` to `version`.

    `change` is the judge's over the span, by its slope; a shift gets worse by growing. `level` is what `p_value`
    was compared with. `ranking` are the evaluated versions of the span, that which the judge liked best first.
    """

    judge: str
    first_version: int
    version: int
    change: float
    p_value: float
    level: float
    reward_change: float
    reward_p_value: float
    ranking: tuple[int, ...]

    @property
    def best_version(self) -> int:
        return self.ranking[0]

    @property
    def is_alarm(self) -> bool:
        return self.p_value <= self.level and self.reward_p_value <= REWARD_P

    def __str__(self) -> str:
        return (
            f"from version {self.first_version} to {self.version} the reward changed by {self.reward_change:+.3f} "
            f"(p {self.reward_p_value:.1g}) and {self.judge} by {self.change:+.3f} (p {self.p_value:.1g} that it got "
            f"worse, level {self.level:.1g}); {self.judge} was best at version {self.best_version}"
        )


def spans(num_evaluations: int, window: int) -> list[int]:
    """Lengths of the spans that end with the newest evaluation: all of them, and the last `window`."""
    if num_evaluations < MIN_EVALUATIONS:
        return []
    return sorted({num_evaluations, max(MIN_EVALUATIONS, min(window, num_evaluations))}, reverse=True)


def corrected_level(level: float, num_planned: int, window: int, num_judges: int) -> float:
    """The share of one test: all spans of all looks of a run of `num_planned` evaluations, for every judge."""
    num_tests = sum(len(spans(count, window)) for count in range(1, num_planned + 1))
    return level / max(1, num_tests * num_judges)


def look(
    history: Sequence[Evaluated],
    reward: str,
    judges: Sequence[str],
    *,
    num_planned: int,
    references: Mapping[str, np.ndarray] | None = None,
    window: int = 4,
    level: float = 0.03,
) -> list[Finding]:
    """Findings about the newest evaluation, one a judge and span; `[f for f in ... if f.is_alarm]` is the alarm.

    Args:
        history: all evaluations so far, by version, on the same prompts and seeds.
        reward: the score that is trained on.
        judges: scores, or shifts, for which `references` has the mean [D]; nothing that is selected by or trained on.
        num_planned: evaluations that the whole run will make; more than planned are shared out as if planned.
        window: evaluations of the short span, which sees a judge fall that had risen before.
        level: bound on the chance of a false alarm over the whole run, all judges together.
    Raises:
        ValueError: no evaluation has a judge's name.
    """
    references = references or {}
    share = corrected_level(level, max(num_planned, len(history)), window, len(judges))
    findings = []
    for judge in judges:
        heard = [evaluated for evaluated in history if _has(evaluated, judge, reward)]  # a gap is passed over
        lengths = spans(len(heard), window) if heard and heard[-1] is history[-1] else []
        for length in lengths:
            span = heard[len(heard) - length :]
            versions = [evaluated.version for evaluated in span]
            rise = score_trend(_scores(span, reward), versions, direction=1)
            trend, ranking = _judge(span, versions, judge, references.get(judge))
            findings.append(
                Finding(
                    judge,
                    versions[0],
                    versions[-1],
                    trend.change,
                    trend.p_value,
                    share,
                    rise.change,
                    rise.p_value,
                    ranking,
                )
            )
    return findings


def _has(evaluated: Evaluated, judge: str, reward: str) -> bool:
    """Whether the version has any value of the judge and of the reward."""
    kind = evaluated.embeddings if judge in evaluated.embeddings else evaluated.scores
    found = (_known(kind, judge, evaluated.version), _known(evaluated.scores, reward, evaluated.version))
    return all(np.isfinite(np.array(values, dtype=float)).any() for values in found)


def _judge(
    span: Sequence[Evaluated], versions: list[int], judge: str, reference: np.ndarray | None
) -> tuple[Trend, tuple[int, ...]]:
    """The trend of one judge, and the versions as it likes them, best first."""
    if reference is None:
        scores = _scores(span, judge)
        means = [np.nanmean(one) if np.isfinite(one).any() else -np.inf for one in scores]
        return score_trend(scores, versions, direction=-1), _ranked(versions, -np.array(means))
    embeddings = np.stack([_known(evaluated.embeddings, judge, evaluated.version) for evaluated in span])
    far = np.array([squared_shift(one, reference) for one in embeddings])
    return shift_trend(embeddings, versions, reference), _ranked(versions, far)


def _ranked(versions: list[int], badness: np.ndarray) -> tuple[int, ...]:
    """Versions by rising badness [V]; of equal ones the earlier first."""
    return tuple(versions[row] for row in np.argsort(badness, kind="stable"))


def squared_shift(embeddings: np.ndarray, reference_mean: np.ndarray) -> float:
    """Squared distance of the mean of [P, S, D] from [D], without bias from P; infinite with fewer than two prompts."""
    means = prompt_values(embeddings[None])[0] - reference_mean
    return float(mean_product(means @ means.T)) if len(means) > 1 else float("inf")


def _scores(span: Sequence[Evaluated], name: str) -> np.ndarray:
    """[V, P, S]; NaN where missing."""
    return np.stack([np.array(_known(evaluated.scores, name, evaluated.version), dtype=float) for evaluated in span])


def _known(found: Mapping, name: str, version: int):
    if name not in found:
        raise ValueError(f"alarm: the evaluation of version {version} has no {name!r}; it has {sorted(found)}")
    return found[name]
