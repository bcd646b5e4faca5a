"""The head of a report: how the run ended and what it reached, in two sentences, and its alarms."""

from __future__ import annotations

from collections.abc import Sequence

from rlloop.evaluation.statistics import Paired
from rlloop.views.report.markup import Html, tag
from rlloop.views.report.record import Comparison, RunRecord
from rlloop.views.report.wording import count, interval, moment, p_text, score
from rlloop.views.scores import mean_score, show_seconds
from rlloop.views.summary import compare

ENDED = {
    "finished": "Finished",
    "stopped": "Stopped early",
    "failed": "Failed",
    "open": "Not ended: it still runs, or was killed; no summary of its last start is there",
}


def head(run: RunRecord) -> Html:
    title = tag("h1", run.name)
    sentences = [tag("p", gain_sentence(run), class_="verdict"), tag("p", state(run), class_="state")]
    return tag("header", tag("p", "rlloop report", class_="kicker"), title, *sentences, alarms([run]))


def head_of_two(a: RunRecord, b: RunRecord, found: Comparison) -> Html:
    title = tag("h1", f"{a.name} ", tag("span", "against", class_="against"), f" {b.name}")
    lines = [
        tag("p", f"{letter}: {run.folder}. {state(run)}", class_="state")
        for letter, run in zip("AB", (a, b), strict=True)
    ]
    kicker = tag("p", "rlloop report · two runs", class_="kicker")
    return tag(
        "header", kicker, title, tag("p", difference_sentence(a, b, found), class_="verdict"), *lines, alarms([a, b])
    )


def gain_sentence(run: RunRecord) -> str:
    """What the run is about, with how sure that is and what is not known."""
    if run.first is None and run.last is None:
        return f"Nothing was evaluated yet: what this run does to {run.reward} is not known."
    if run.last is None:
        before = score(mean_score(run.first, run.reward))
        return f"Only version 0 was evaluated, at {run.reward} {before}: what the run does to it is not known yet."
    if run.first is None:
        after = score(mean_score(run.last, run.reward))
        return f"Version 0 was not evaluated, so there is no gain; version {run.last.version} has {run.reward} {after}."
    found = reward_change(run)
    if found is None or not found.num_prompts:
        return f"Versions 0 and {run.last.version} have no prompt with {run.reward} in both: there is no gain to tell."
    certain = (
        f"95 % interval {interval(found.ci_low, found.ci_high)}, {p_text(found.p_value)}"
        if found.num_prompts > 1
        else "of one prompt, without interval"
    )
    return (
        f"{run.reward} on {count(found.num_prompts, 'held-out prompt')} went from {score(found.mean_before)} to "
        f"{score(found.mean_after)}: {score(found.gain)}, {certain}."
    )


def reward_change(run: RunRecord) -> Paired | None:
    """The paired comparison of version 0 with the newest; None where prompts or seeds changed."""
    try:
        return compare(run.first, run.last, run.reward)
    except ValueError:
        return None


def difference_sentence(a: RunRecord, b: RunRecord, found: Comparison) -> str:
    own = next((one for one in found.figures if one.name == a.reward), None)
    if own is None or own.difference is None:
        return f"The two runs have no paired difference in {a.reward}."
    certain = f"95 % interval {interval(own.ci_low, own.ci_high)}, {p_text(own.p)}"
    return (
        f"At their last evaluated versions B has {score(own.difference)} {a.reward} over A ({certain}), paired over "
        f"{count(own.num_prompts, 'held-out prompt')}. One run each: it says nothing of other run seeds."
    )


def state(run: RunRecord) -> str:
    reason = f" ({run.reason})" if run.reason else ""
    versions = f"version {run.version} of {run.num_versions}"
    clips = count(run.clips_generated, "clip")
    when = f", {moment(run.began_at)}" if run.began_at else ""
    ended = ENDED.get(run.status, run.status)
    return f"{ended}{reason}. {versions.capitalize()} from {clips} in {show_seconds(run.worked_seconds)}{when}."


def alarms(runs: Sequence[RunRecord]) -> Html | None:
    """The first alarm of each judge, where one rang; all of them stand below."""
    first: dict[tuple[str, str], str] = {}
    for run in runs:
        for result in run.evaluations:
            for found in result.alarms:
                first.setdefault((run.name, found["judge"]), found["text"])
    if not first:
        return None
    rows = [f"{name}: {text}" if len(runs) > 1 else text for (name, _), text in first.items()]
    title = tag("h2", "Alarm: the reward rose while a held-out judge fell")
    return tag("aside", title, tag("ul", *(tag("li", row) for row in rows)), class_="alarm", aria_label="Alarm")
