"""The report: what a run directory says, the page in every state of a run, escaping, the comparison of two runs."""

import base64
import io
import json
import os
import re
import shlex
from collections import Counter
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from rlloop.commands.main import app
from rlloop.config import build
from rlloop.evaluation.statistics import paired
from rlloop.loop import records as r
from rlloop.loop.environment import describe, read_starts, record_start
from rlloop.loop.journal import Journal
from rlloop.loop.ledger import Ledger
from rlloop.loop.plan import Plan
from rlloop.recipes.evaluations import write_result
from rlloop.recipes.run_clips import MAX_PAIRS, MAX_VERSIONS, one_run, shown_evaluations, shuffled
from rlloop.recipes.run_comparison import compare_runs, flat
from rlloop.recipes.run_record import Told, read_run
from rlloop.recipes.run_report import report_page, write_page
from rlloop.resources import resources
from rlloop.views.report.curves import Chart, chart
from rlloop.views.report.markup import Html, data_block, tag
from rlloop.views.report.provenance import cost_facts
from rlloop.views.report.record import Pair
from rlloop.views.report.results import score_sweep
from rlloop.views.svg import Line
from tests.unit.run_directory import NASTY, PROMPTS, make_run, result
from tests.unit.snapshots import JUDGE, REWARD


class Page(HTMLParser):
    """Counts elements, collects ids, and what a browser would be asked to load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.asked: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, name, attrs):
        found = dict(attrs)
        self.tags[name] += 1
        self.ids += [found["id"]] if "id" in found else []
        self.asked += [found[key] for key in ("src", "href", "srcset", "action", "data") if found.get(key)]
        self.open += [] if name in ("meta", "link", "input", "br", "hr") else [name]

    def handle_endtag(self, name):
        assert self.open.pop() == name


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "small")


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<(script|style).*?</\1>", "", page, flags=re.S)).split())


def test_a_record_says_what_the_files_say(run):
    record, _ = read_run(run)
    assert (record.version, record.num_versions, record.clips_generated, record.num_starts) == (2, 2, 16, 1)
    assert record.status == "open" and not record.is_exact  # no summary
    assert [(one.version, sorted(one.values), one.num_missing) for one in record.rewards] == [
        (0, [-0.2, -0.1, 0.0, 0.0, 0.1, 0.2, 0.3], 1),
        (1, [-0.6, -0.5, -0.4, 0.4, 0.5, 0.6, 0.7], 1),
    ]
    assert record.troubles.missing_scores == {f"{REWARD}: <b>not finite</b>": 2} and record.troubles.num_scores == 16
    assert record.busy_seconds == {"sampler": 8.0, "scorer": 4.0, "evaluator": 6.0}
    assert record.stages == [("expert_iteration", 1, 2)] and record.troubles.restarts is None


def test_the_page_is_whole_and_asks_for_nothing(run):
    page = Page(report_page([run]))
    assert page.open == [] and len(set(page.ids)) == len(page.ids)
    assert all(one.startswith(("data:", "#")) for one in page.asked)
    assert page.tags["audio"] == 4 * 3 + 3 and page.tags["main"] == page.tags["h1"] == 1
    for section in ("curves", "stages", "clips", "extremes", "blind", "sweep", "troubles", "provenance"):
        assert section in page.ids and f"#{section}" in page.asked
    assert "default-src &#x27;none&#x27;" in report_page([run])


def test_texts_of_a_run_are_text(run):
    page = report_page([run])
    assert "<script>document" not in page and "<b>not finite" not in page
    assert "&lt;script&gt;document.title" in page and "&lt;b&gt;not finite&lt;/b&gt;" in page
    assert tag("p", "<i>", Html("<b></b>"), title='"><i>') == '<p title="&quot;&gt;&lt;i&gt;">&lt;i&gt;<b></b></p>'
    block = data_block("x", {"prompt": NASTY, "end": "</script><script>"})
    inside = block[block.index(">") + 1 : block.rindex("<")]
    assert "<" not in inside and json.loads(inside) == {"prompt": NASTY, "end": "</script><script>"}


def test_the_gain_is_that_of_the_paired_statistics(run):
    found = paired(result(0).scores[REWARD], result(2).scores[REWARD])
    assert f"{REWARD} on 4 held-out prompts went from +0.150 to +{found.mean_after:.3f}: " in text_of(
        report_page([run])
    )


@pytest.mark.parametrize(
    ("versions", "generations", "said"),
    [
        (0, 0, "Nothing was evaluated yet"),
        (1, 0, "Only version 0 was evaluated"),
        (2, 1, "the blind test"),
    ],
)
def test_short_runs_have_a_report(tmp_path, versions, generations, said):
    run = make_run(tmp_path / "short", versions, generations=generations)
    page = report_page([run])
    assert Page(page).open == [] and said in text_of(page)


def test_a_run_without_a_journal_and_one_that_broke_off_have_a_report(tmp_path):
    run = make_run(tmp_path / "none", 0, generations=0)
    (run / "journal" / "journal.log").unlink()
    assert "nothing was journaled" in text_of(report_page([run]))
    broken = make_run(tmp_path / "broken")
    with (broken / "journal" / "journal.log").open("ab") as file:
        file.write(b"0badbad0 99 {half a rec")
    assert read_run(broken)[0].version == 2


def test_what_went_wrong_is_told(run):
    summary = {"status": "failed", "reason": "disk <full>", "policy_versions": 2, "wall_seconds": 90.0,
               "restarts": {"sampler": 2}, "messages": ["ticket 3: lost"], "result_version": 1}  # fmt: skip
    (run / "summary.json").write_text(json.dumps(summary))
    folder = run / "checkpoints" / "v000001-s000000"
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(b"1234")
    (folder / "marker.json").write_text(json.dumps({"files": {"weights.safetensors": [5, 0]}}))
    (run / "checkpoints" / "v000002-s000000").mkdir()
    alarm = {"judge": JUDGE, "text": f"{JUDGE} fell"}
    write_result(run, result(2, alarms=[alarm]))
    text = text_of(report_page([run]))
    for said in (
        "Failed (disk &lt;full&gt;). Version 2 of 2 from 16 clips in 1:30",
        "sampler 2",
        "ticket 3: lost",
        "v000001-s000000/weights.safetensors has 4 bytes, its marker says 5",
        "v000002-s000000",
        f"{JUDGE} fell",
        "2 of 16 scores of rollouts",
        "Result version 1",
    ):
        assert said in text, said


def test_a_summary_that_the_journal_has_outrun_does_not_count(run):
    (run / "summary.json").write_text(json.dumps({"status": "stopped", "policy_versions": 2, "wall_seconds": 5.0}))
    assert read_run(run)[0].status == "stopped"
    os.utime(run / "summary.json", (0, 0))
    assert read_run(run)[0].status == "open"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("summary.json", '{"status": "finished", "policy_versions": 2, "wall_seconds": "long"}', "wall_seconds"),
        ("sweep.json", '{"points": [{"s": 1}], "spearman": {}}', "points.0.scores"),
        ("environment.json", '[{"cpus": 2, "versions": ["3.12"], "nodes": 4}]', "0.versions"),
        ("prompts.json", "[]", "its value"),
        ("prompts.json", '{"train": 5}', "train"),
        ("prompts.json", '{"train": ["a', "is no JSON"),
    ],
)
def test_a_damaged_file_beside_the_journal_costs_itself_and_is_named(run, name, content, said):
    (run / name).write_text(content)
    record, _ = read_run(run)
    assert record.status == "open" and record.sweep is None and record.starts == [] and record.corpus is None
    (line,) = record.troubles.damaged_files
    assert line.startswith(f"{name}: ") or f"/{name}: " in line
    assert said in line and "Files of the run that are damaged" in text_of(report_page([run]))


def test_a_summary_of_less_still_counts(run):
    (run / "summary.json").write_text(json.dumps({"status": "finished", "policy_versions": 2}))
    record, _ = read_run(run)
    assert record.status == "finished" and not record.is_exact and record.troubles.damaged_files == []
    assert "What went wrong" in text_of(report_page([run]))


def test_a_marker_nested_too_deeply_is_a_refused_checkpoint(run):
    folder = run / "checkpoints" / "v000001-s000000"
    folder.mkdir(parents=True)
    (folder / "marker.json").write_text("[" * 200_000)
    assert "its marker cannot be read" in read_run(run)[0].troubles.refused_checkpoints[0]


def test_half_a_surrogate_in_a_prompt_is_written_as_a_question_mark(run):
    for path in (run / "evaluations").glob("*.json"):
        path.write_text(path.read_text().replace("fast drums", "fast \\ud800 drums"))
    done = invoke(str(run))
    assert done.exit_code == 0, done.exception
    assert "fast ? drums" in (run / "report.html").read_text() and not (run / "report.html.tmp").exists()


def test_a_page_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        write_page("<p>a \ud800 prompt</p>", tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_what_is_paid_for_is_what_the_pools_held_over_time(run):
    """Two samplers for 30 s, then four from the next segment on for 10 s; between two starts nothing is held."""
    told = Told(Ledger(Plan.from_config(build({"stages": [{"name": "s", "tickets": 4}]}))), sizes={"sampler": 2})
    scaled = r.Scaled("sampler", 4)
    story = [(r.EpochBegan(1), 0), (r.SegmentBegan(1), 10), (scaled, 25), (r.SegmentBegan(2), 30), (r.Published(1), 35),
             (r.EpochBegan(2), 100), (r.SegmentBegan(3), 105)]  # fmt: skip
    for record, when in story:
        if not isinstance(record, r.Published):
            told.ledger.apply(record, when)
        told.follow(record, when)
    assert told.mean_actors == {"sampler": (2 * 30 + 4 * 5 + 4 * 5) / 40}
    journal = Journal(run / "journal" / "journal.log")
    journal.append(r.Scaled("sampler", 4))  # of a segment that never began
    record, _ = read_run(run)
    assert record.mean_actors == {"sampler": pytest.approx(1), "scorer": pytest.approx(1)}
    for name in ("journal/journal.log", "summary.json"):
        (run / name).unlink(missing_ok=True)
    pool = {"num_actors": 2, "autoscale": {"min": 1, "max": 6}}
    (run / "config.json").write_text(build({**record.config.model_dump(), "sampler": pool}).model_dump_json())
    assert read_run(run)[0].mean_actors["sampler"] == 2  # never autoscale.max
    facts = dict(cost_facts(replace(record, mean_actors={"sampler": 1.5}, worked_seconds=7200.0)))
    each = record.config.sampler.num_cpus
    others = sum(row.cpus for row in resources(record.config) if row.role != "sampler")
    assert facts["CPU-hours"].startswith(f"{2 * (1.5 * each + others):.2f} ")


def test_votes_are_kept_under_a_key_of_the_clips_themselves(run):
    def key(page):
        return json.loads(re.search(r'id="blind-data"[^>]*>(.*?)<', page)[1])["key"]

    first = key(report_page([run]))
    assert first == key(report_page([run]))
    for clip in (run / "audio").glob("*.flac"):
        audio, rate = soundfile.read(clip)
        soundfile.write(clip, audio * 0.5, rate)
    assert key(report_page([run])) != first


def test_the_score_sweep_is_shown_where_it_lies_in_the_run(run):
    cell = {"mean": 0.5, "ci_low": 0.4, "ci_high": 0.6, "num_prompts": 4, "num_missing": 0}
    points = [
        {"s": s, "scores": {REWARD: cell}, "distances": {"frechet_mini": {"value": 9.0, "n": 8}}} for s in (None, 0, 1)
    ]
    rho = {REWARD: {"rho": 1.0, "ci_low": 0.9, "ci_high": 1.0}}
    assert "rlloop sweep-score --config" in text_of(report_page([run]))
    spaced = replace(read_run(run)[0], folder="/my runs/it's")
    config, folder, out = (shlex.quote(f"/my runs/it's{name}") for name in ("/config.json", "", "/sweep"))
    asked = f"rlloop sweep-score --config {config} --weights {folder} --out {out}"
    assert asked in unescape(str(score_sweep(spaced)))
    (run / "sweep").mkdir()
    (run / "sweep" / "sweep.json").write_text(json.dumps({"points": points, "spearman": rho, "notes": ["a note"]}))
    text = text_of(report_page([run]))
    assert f"has no place on the axis: {REWARD} +0.500." in text
    assert "Spearman of s +1.000, 95 % interval [+0.900, +1.000]" in text and "a note" in text


def test_environment_is_kept_a_start_and_shown(run):
    assert "not recorded by this run" in text_of(report_page([run]))
    record_start(run, 1, [{"CPU": 2.0}])
    record_start(run, 2, [{"CPU": 2.0}, {"CPU": 8.0, "GPU": 1.0}])
    starts = read_starts(run)
    assert [start["epoch"] for start in starts] == [1, 2] and starts[0]["versions"]["python"] == describe()["versions"][
        "python"
    ]
    text = text_of(report_page([run]))
    assert f"torch {starts[0]['versions']['torch']}" in text and "cluster of 2 nodes with 10 CPUs and 1 GPUs" in text
    (run / "environment.json").write_text("{ half")
    assert read_starts(run) == []


def test_audio_is_kept_as_it_is_or_made_smaller_or_left_out(run):
    record, ledger = read_run(run)
    heard = one_run(record, ledger)
    clip = heard.held_out[0][0]
    assert base64.b64decode(clip.data.partition(",")[2]) == (run / clip.path).read_bytes()
    assert "sample for sample" in heard.note and clip.seconds == 1.0
    smaller = one_run(record, ledger, max_bytes=60_000)
    first = smaller.held_out[0][0]
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(first.data.partition(",")[2])))
    assert first.data.startswith("data:audio/mpeg") and rate == 16_000 and first.sha256 == clip.sha256
    assert np.abs(np.fft.rfft(samples)).argmax() / (len(samples) / rate) == pytest.approx(200, abs=2)  # its tone
    sizes = [len(one.data) * 3 / 4 for row in smaller.held_out for one in row] + [
        len(one.data) * 3 / 4 for one in smaller.extremes
    ]
    assert sum(sizes) <= 60_000 and "more are left out" in smaller.note
    assert smaller.held_out[0][1].data == "" and smaller.held_out[0][2].data  # what is between goes first


def test_a_clip_that_is_gone_costs_itself(run):
    (run / "audio/version000000-prompt001.flac").unlink()
    (run / "audio/version000002-prompt002.flac").write_bytes(b"no audio")
    heard = one_run(*read_run(run))
    assert heard.held_out[1][0].missing == "its file is missing" and heard.held_out[2][2].missing
    assert Page(report_page([run])).tags["audio"] == 13


def test_best_median_and_worst_are_those_of_the_ranking(run):
    heard = one_run(*read_run(run))
    assert [clip.scores[REWARD] for clip in heard.extremes] == [0.7, 0.4, -0.6]
    assert heard.extremes_note == f"Of 7 scored rollouts of cohort 1 (expert_iteration), ranked by {REWARD}."


def test_pairs_are_of_one_prompt_and_seed_in_a_seeded_order(run):
    heard = one_run(*read_run(run))
    assert heard.pairs == one_run(*read_run(run)).pairs and len(heard.pairs) == 12 <= MAX_PAIRS
    assert all((p.a.prompt, p.a.seed) == (p.b.prompt, p.b.seed) and p.a.version != p.b.version for p in heard.pairs)
    assert {p.a.version < p.b.version for p in heard.pairs} == {True, False}  # sides are drawn
    ends = [p for p in heard.pairs if {p.a.version, p.b.version} == {0, 2}]
    assert len(ends) == len(PROMPTS)
    many = [Pair(p.a, p.b, str(n), "", "", "") for n, p in enumerate(heard.pairs)]
    assert shuffled(many, 1) != shuffled(many, 2)


def test_two_runs_are_compared_on_what_both_have(tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=5)
    found = compare_runs(read_run(a)[0], read_run(b)[0])
    gain = paired(result(2, 0.1).scores[REWARD], result(2, 0.2).scores[REWARD])
    row = next(one for one in found.figures if one.name == REWARD)
    assert (row.difference, row.p, row.num_prompts) == (pytest.approx(gain.gain), pytest.approx(gain.p_value), 4)
    assert found.config == [("seed", 0, 5)]
    page = report_page([a, b])
    assert Page(page).open == [] and Page(page).tags["audio"] == 8 and "<script>document" not in page
    assert f"B has +{gain.gain:.3f} {REWARD} over A" in text_of(page)


def test_two_runs_of_other_prompts_are_not_paired(tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    path = b / "evaluations" / "version000002.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "seeds": [[1, 2]] * 4}))
    found = compare_runs(read_run(a)[0], read_run(b)[0])
    assert (
        all(one.difference is None and one.p is None for one in found.figures) and "nothing is paired" in found.notes[0]
    )
    assert "no paired difference" in text_of(report_page([a, b]))


def test_configurations_are_flat():
    assert flat({"a": {"b": 1, "c": [1, 2]}, "d": [{"e": 2}]}) == {"a.b": 1, "a.c": [1, 2], "d.0.e": 2}


def test_a_chart_has_its_values_and_its_gaps():
    figure = chart(Chart("reward", "n 4", "version", [Line("one", [0, 1, 2, 3], [0.0, None, 1.0, 2.0])]))
    points = re.findall(r'<polyline points="([^"]+)"', figure)
    assert [len(one.split()) for one in points] == [2] and figure.count("<circle") == 3
    assert "+2.000" in figure and "No value yet" in chart(Chart("reward", "", "version", [Line("one", [0], [None])]))


def invoke(*arguments: str):
    return CliRunner().invoke(app, ["report", *arguments])


def test_the_command_writes_one_file(run, tmp_path):
    done = invoke(str(run))
    assert done.exit_code == 0 and (run / "report.html").read_text().startswith("<!doctype html>")
    done = invoke(str(run), "--out", str(tmp_path / "here.html"))
    assert done.exit_code == 0 and f"{tmp_path / 'here.html'} (" in done.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("{run}/audio",), "holds no run"),
        (("{run}/..",), "runs inside it: "),
        (("{run}", "{run}"), "the same run"),
        (("{run}", "--out", "{run}/none/x.html"), "there is no folder"),
        (("{run}", "--out", "{run}"), "is a folder"),
    ],
)
def test_mistakes_are_one_line(run, arguments, said):
    done = invoke(*(part.format(run=run) for part in arguments))
    assert done.exit_code == 2 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_of_many_versions_a_few_are_heard(tmp_path):
    record, _ = read_run(make_run(tmp_path / "small", 0, generations=0))
    many = [result(version, audio=(f"audio/version{version:06d}-prompt000.flac",)) for version in range(41)]
    shown = [
        one.version
        for one in shown_evaluations(replace(record, evaluations=many, stages=[("a", 1, 20), ("b", 21, 40)]))
    ]
    assert len(shown) == MAX_VERSIONS and {0, 20, 40} <= set(shown) and shown == sorted(shown)
    few = [one.version for one in shown_evaluations(replace(record, evaluations=many[:5]))]
    assert few == [0, 1, 2, 3, 4]
