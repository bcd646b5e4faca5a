"""Sets of clips as values: what is paired, what is missing, which distances may be compared, and how they are shown."""

import json

import numpy as np
import pytest
from rich.console import Console

from rlloop.evaluation.comparison import ClipSet, Yardstick, compare
from rlloop.evaluation.frechet import FrechetStatistics
from rlloop.views.evaluation import comparison_table


def clip_set(name: str, rewards: dict[str, list], dim: int = 2, offset: float = 0.0) -> ClipSet:
    """Clips by prompt; embeddings are drawn around `offset`."""
    units = [prompt for prompt, values in rewards.items() for _ in values]
    scores = {"reward": [value for values in rewards.values() for value in values]}
    return ClipSet(name, units, scores, {"ear": np.random.default_rng(0).normal(offset, 1, (len(units), dim))})


def yardstick(embeddings: bool = False) -> Yardstick:
    drawn = np.random.default_rng(1).normal(size=(50, 2))
    return Yardstick("songs", FrechetStatistics.of(drawn), drawn if embeddings else None)


def test_a_set_alone_has_means_over_prompts_and_a_distance_with_its_n():
    report = compare(clip_set("a", {"x": [1.0, 3.0], "y": [5.0]}), None, {"ear": yardstick()})
    cell = report["scores"]["reward"]
    assert (cell["mean"], cell["num_prompts"], cell["gain"], cell["against"]) == (3.5, 2, None, None)
    far = report["distances"]["frechet_ear"]
    assert far["n"] == 3 and far["gain"] is None and far["reference"]["num_clips"] == 50
    json.dumps(report, allow_nan=False)


def test_two_sets_are_paired_over_the_prompts_that_both_have():
    after = clip_set("after", {"x": [2.0, 4.0], "y": [5.0], "only after": [100.0]})
    before = clip_set("before", {"y": [4.0], "x": [1.0], "only before": [-100.0], "z": [0.0]})
    report = compare(after, before, {})
    cell = report["scores"]["reward"]
    assert cell["gain"] == 1.5 and report["paired_prompts"] == 2  # x: 3 - 1, y: 5 - 4
    assert cell["mean"] == 36.0 and cell["against"] == pytest.approx(-95 / 4)
    assert report["notes"] == ["paired over the 2 prompts that both have; means are over all prompts of each"]


def test_nothing_in_common_is_said():
    report = compare(clip_set("a", {"x": [1.0], "y": [1.0]}), clip_set("b", {"u": [0.0], "y": [0.0]}), {})
    assert report["scores"]["reward"]["gain"] is None and "1 prompts in common" in report["notes"][0]


def test_missing_scores_are_counted_and_never_zero():
    cell = compare(clip_set("a", {"x": [None, 4.0], "y": [None]}), None, {})["scores"]["reward"]
    assert (cell["mean"], cell["num_prompts"], cell["num_missing"]) == (4.0, 1, 2)


def test_distances_of_other_sizes_have_a_gain_only_if_allowed():
    small, large = clip_set("a", {"x": [1.0] * 4}), clip_set("b", {"x": [1.0] * 6}, offset=1.0)
    refused = compare(small, large, {"ear": yardstick()})
    assert refused["distances"]["frechet_ear"]["gain"] is None and "sets of 6 and 4 clips" in refused["notes"][-1]
    allowed = compare(small, large, {"ear": yardstick()}, allow_other_n=True)
    cell = allowed["distances"]["frechet_ear"]
    assert cell["gain"] == pytest.approx(cell["value"] - cell["against"]) and "as allowed" in allowed["notes"][-1]


@pytest.mark.parametrize("dim", [0, 2])
def test_a_set_that_cannot_be_heard_has_no_distance(dim):
    deaf = ClipSet("a", ["x", "y"], {}, {"ear": np.full((2, dim), np.nan)})
    report = compare(deaf, None, {"ear": yardstick()})
    assert report["distances"] == {} and report["notes"] == ["a: 0 clips could be heard by ear; a distance needs two"]


def test_a_score_that_one_set_lacks_has_no_gain_and_is_said():
    a = ClipSet("a", ["x", "y"], {"both": [1.0, 2.0], "mine": [1.0, 2.0]}, {})
    b = ClipSet("b", ["x", "y"], {"both": [0.0, 0.0], "theirs": [1.0, 2.0]}, {})
    report = compare(a, b, {})
    assert report["notes"] == ["only one of the two sets is scored by mine, theirs: no gain in it"]
    assert report["scores"]["mine"]["gain"] is None and report["scores"]["both"]["gain"] == 1.5


def test_of_one_pair_there_is_no_gain():
    """Three prompts in common, one of them scored in both."""
    a = clip_set("a", {"x": [1.0], "y": [None], "z": [3.0]})
    cell = compare(a, clip_set("b", {"x": [0.0], "y": [1.0], "z": [None]}), {})["scores"]["reward"]
    assert (cell["gain"], cell["p"], cell["paired_prompts"], cell["against"]) == (None, None, 1, 0.5)


def has_mauve() -> bool:
    """Whether it can be imported: it may be there without what it needs."""
    try:
        import mauve  # noqa: F401
    except ImportError:
        return False
    return True


def test_a_missing_library_is_one_note_for_all_sets_and_ears():
    """MAD is there where its library is; elsewhere the other distances are, and one line says how to get it."""
    a, b = clip_set("a", {"x": [1.0] * 30}), clip_set("b", {"x": [0.0] * 30})
    sets = [
        ClipSet(s.name, s.units, s.scores, {"ear": s.embeddings["ear"], "clap": s.embeddings["ear"]}) for s in (a, b)
    ]
    report = compare(*sets, {ear: yardstick(embeddings=True) for ear in ("ear", "clap")})
    found, notes = set(report["distances"]), [note for note in report["notes"] if "mauve" in note]
    if has_mauve():
        assert found == {"frechet_ear", "mad_ear", "fad_clap", "mad_clap"} and not notes
    else:
        assert found == {"frechet_ear", "fad_clap"}
        assert notes == ["MAD needs the library mauve-text, which is not installed: pip install 'rlloop[mad]'"]


def test_the_shipped_reference_has_a_name_of_its_own():
    statistics = FrechetStatistics.of(np.random.default_rng(1).normal(size=(50, 2)))
    report = compare(clip_set("a", {"x": [1.0] * 3}), None, {"ear": Yardstick("mini", statistics)})
    far = report["distances"]["frechet_mini"]
    assert far["reference"] == {"name": "mini", "num_clips": 50, "checksum": statistics.checksum}


def test_tables_show_what_there_is():
    report = compare(clip_set("a", {"x": [1.0], "y": [None]}), clip_set("b", {"x": [0.0], "y": [1.0]}), {})
    console = Console(width=160, record=True, file=open("/dev/null", "w"))
    console.print(comparison_table(report))
    shown = console.export_text()
    assert "1 clips missing" in shown and "+1.000" in shown and "against" in shown
