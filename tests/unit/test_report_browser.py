"""The report in a real headless Chromium: it plays, votes, stores, prints, fits a phone, and asks the network nothing.

Needs a Chromium on the machine; without one these tests are skipped and say how to get it.
"""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlloop.commands.main import app
from rlloop.recipes.run_report import report_page, write_page
from tests.unit.run_directory import PROMPTS, make_run, tone
from tests.unit.test_votes import pairs_of

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = os.environ.get("RLLOOP_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
HOW = (
    "no Chromium is found: `apt-get install chromium` (Debian), or any Chrome or Chromium on PATH or in RLLOOP_CHROMIUM"
)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason=HOW)
WAIT_MS = 60_000


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    run = make_run(tmp_path_factory.mktemp("runs") / "small")
    write_page(report_page([run]), run / "report.html")
    return run


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install -e '.[dev]'")
    with api.sync_playwright() as playwright:
        as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=as_root)
        yield browser
        browser.close()


class Visit:
    """An opened page, what it asked for, and what it complained about."""

    def __init__(self, browser, path: Path, **options) -> None:
        self.context = browser.new_context(accept_downloads=True, **options)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(path.as_uri())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()


@needs_browser
def test_it_plays_and_nothing_leaves_the_machine(browser, run):
    with Visit(browser, run / "report.html") as visit:
        page = visit.page
        players = page.locator("audio")
        assert players.count() == 15
        for number in (0, 14):
            players.nth(number).focus()
            page.keyboard.press("Space")
            page.wait_for_function("n => document.querySelectorAll('audio')[n].currentTime > 0.1", arg=number)
        assert page.evaluate("document.querySelectorAll('audio')[0].paused")  # one at a time
        assert page.evaluate("[...document.querySelectorAll('audio')].every(a => !a.error)")
        assert "rlloop report" in page.title()  # the prompt's script did nothing
        assert visit.complaints == []
        own = {(run / "report.html").as_uri()}
        assert {url for url in visit.requests if not url.startswith(("data:", "blob:"))} == own
        refused = page.evaluate(
            """() => new Promise(done => {
                document.addEventListener('securitypolicyviolation', event => done(event.effectiveDirective));
                fetch('http://127.0.0.1:9/').catch(() => {});
                setTimeout(() => done('nothing was refused'), 5000);
            })"""
        )
        assert refused == "connect-src"


def vote_by_keyboard(page, keys: str, before: int = 0) -> None:
    """From the contents to the test and through its pairs, without a pointer; `before` have a vote already."""
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Blind test":
            break
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Play A"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"  # focus is seen
    page.keyboard.press("1")
    assert page.text_content("#blind-status") == "Play both first."
    for number, key in enumerate(keys, before + 1):
        for side in "ab":
            page.keyboard.press(side)
            page.wait_for_function(
                "s => document.querySelectorAll('.play')[s].ariaPressed === 'true'", arg="ab".index(side)
            )
        page.keyboard.press(key)
        page.wait_for_function(
            "n => document.getElementById('blind-count').textContent.includes(n)", arg=f", {number} voted"
        )


@needs_browser
def test_votes_by_keyboard_are_stored_in_a_file_that_trains(browser, run, tmp_path):
    pairs = pairs_of((run / "report.html").read_text())
    keys = ("1" * 4 + "2" * 4 + "0" * 4)[: len(pairs)]
    with Visit(browser, run / "report.html") as visit:
        page = visit.page
        vote_by_keyboard(page, keys)
        assert page.evaluate("document.activeElement.id") == "blind-save"
        page.locator("#blind-listener").fill("E. <b>")
        page.locator("#blind-save").focus()
        with page.expect_download() as caught:
            page.keyboard.press("Enter")
        assert caught.value.suggested_filename == "votes.jsonl"
        caught.value.save_as(tmp_path / "votes.jsonl")
        page.reload()
        assert page.text_content("#blind-count") == "Pair 1 of 12, 12 voted"  # the browser kept them
        page.locator("#blind-reveal").click()
        assert "version 0 preferred" in page.text_content("#blind-result")
        assert visit.complaints == []
    rows = [json.loads(line) for line in (tmp_path / "votes.jsonl").read_text().splitlines()]
    winner = {"1": "model_a", "2": "model_b", "0": "tie"}
    assert [row["winner"] for row in rows] == [winner[key] for key in keys]
    assert [{key: row[key] for key in pair["vote"]} for row, pair in zip(rows, pairs, strict=True)] == [
        pair["vote"] for pair in pairs
    ]
    assert {row["listener"] for row in rows} == {"E. <b>"} and {row["prompt"] for row in rows} == set(PROMPTS)
    options = ["--out", str(tmp_path / "taste"), "--hidden", "4", "--epochs", "2", "--batch", "4"]
    done = CliRunner().invoke(app, ["reward", "train", str(tmp_path / "votes.jsonl"), *options])
    assert done.exit_code == 0 and (tmp_path / "taste" / "head.safetensors").is_file(), done.output


@needs_browser
def test_what_is_revealed_is_of_its_pair_alone_and_ends_the_blindness(browser, run, tmp_path):
    prompts = [pair["prompt"] for pair in pairs_of((run / "report.html").read_text())]
    with Visit(browser, run / "report.html") as visit:
        page = visit.page
        assert page.text_content("#blind-status") == f"Pair 1: {prompts[0]}"
        vote_by_keyboard(page, "1")
        assert page.text_content("#blind-status") == f"Pair 1 is voted. Pair 2: {prompts[1]}"
        for button in ("#blind-next", "#blind-back"):
            page.locator("#blind-reveal").click()
            assert "In this pair A is" in page.text_content("#blind-result")
            page.locator(button).click()
            assert page.text_content("#blind-result") == ""
        assert page.text_content("#blind-status") == f"Pair 2: {prompts[1]}"
        page.reload()  # it is not forgotten
        vote_by_keyboard(page, "2", before=1)
        page.locator("#blind-reveal").click()
        assert "not counted because voted after this was shown 1" in page.text_content("#blind-result")
        with page.expect_download() as caught:
            page.locator("#blind-save").click()
        caught.value.save_as(tmp_path / "votes.jsonl")
        assert visit.complaints == []
    rows = [json.loads(line) for line in (tmp_path / "votes.jsonl").read_text().splitlines()]
    assert [row["revealed"] for row in rows] == [False, True]


@needs_browser
def test_votes_stay_with_the_clips_that_were_heard(browser, tmp_path):
    """Another page at the same address, of as many pairs, after the run was made anew under its name: no vote fits."""
    run, out = make_run(tmp_path / "small"), tmp_path / "report.html"
    first = report_page([run])
    for path in sorted((run / "audio").glob("version000002-*")):
        tone(path, 333)
    second = report_page([run])
    write_page(first, out)
    with Visit(browser, out) as visit:
        page = visit.page
        vote_by_keyboard(page, "12")
        counts = []
        for other in (second, first):
            write_page(other, out)
            page.reload()
            counts.append(page.text_content("#blind-count"))
        assert counts == ["Pair 1 of 12, 0 voted", "Pair 3 of 12, 2 voted"] and visit.complaints == []


@needs_browser
def test_it_fits_a_phone(browser, run):
    with Visit(browser, run / "report.html", viewport={"width": 320, "height": 640}, reduced_motion="reduce") as visit:
        page = visit.page
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
        small = "[...document.querySelectorAll('button')].filter(b => b.offsetHeight < 44).length"
        assert page.evaluate(small) == 0  # fingers


@needs_browser
def test_on_paper_players_become_captions(browser, run):
    with Visit(browser, run / "report.html") as visit:
        page = visit.page
        page.emulate_media(media="print")
        shown = "selector => [...document.querySelectorAll(selector)].filter(e => e.checkVisibility()).length"
        assert page.evaluate(shown, "audio") == page.evaluate(shown, "nav") == page.evaluate(shown, "#blind") == 0
        assert page.evaluate(shown, "article > .clips > .clip figcaption") == 2 * len(PROMPTS)
        assert page.evaluate(shown, ".charts svg[role=img]") == page.locator(".charts svg[role=img]").count() > 4
        assert page.evaluate(shown, ".only-print") == 1
        assert page.evaluate("document.querySelectorAll('details[open]').length") == 0
        assert page.evaluate(shown, "pre") == 1  # closed as it is: by the style, without a script
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate("document.querySelectorAll('details:not([open])').length") == 0
        heights = page.evaluate("[...document.querySelectorAll('pre')].map(e => [e.scrollHeight, e.clientHeight])")
        assert heights and all(whole == seen > 1000 for whole, seen in heights)
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.evaluate("document.querySelectorAll('details[open]').length") == 0
        assert page.pdf(format="A4")[:4] == b"%PDF"


@needs_browser
def test_two_runs_are_a_page_without_complaints(browser, run, tmp_path):
    write_page(report_page([run, make_run(tmp_path / "other", seed=3)]), tmp_path / "two.html")
    with Visit(browser, tmp_path / "two.html", viewport={"width": 320, "height": 640}) as visit:
        assert visit.page.locator("audio").count() == 8 and visit.page.locator("#blind-form").is_visible()
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 320 and visit.complaints == []


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.1)."""
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_have_the_contrast_that_reading_needs():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    style = (Path(__file__).parents[2] / "rlloop/views/report/page.css").read_text()
    blocks = re.findall(r":root \{([^}]*--paper[^}]*)\}", style)
    assert len(blocks) == 3  # light, dark, paper
    for block in blocks:
        colour = {
            k: v if len(v) == 7 else "#" + "".join(2 * c for c in v[1:])
            for k, v in re.findall(r"--([\w-]+): (#\w+)", block)
        }
        for ink in ("ink", "quiet", "s0", "s1", "s2", "s3"):
            assert min(contrast(colour[ink], colour[ground]) for ground in ("paper", "soft")) >= 4.5, (ink, block)
        assert min(contrast(colour[ink], colour["alarm-paper"]) for ink in ("ink", "alarm")) >= 4.5
