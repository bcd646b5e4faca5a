"""The page around the sections: one file that asks the network for nothing and says so to the browser."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlloop.views.report import listening, progress, provenance, results, verdict
from rlloop.views.report.markup import Html, tag
from rlloop.views.report.record import Comparison, Listening, RunRecord

HERE = Path(__file__).parent
NAVIGATION = "Contents"


def run_page(run: RunRecord, heard: Listening, made: str) -> str:
    """The report of one run.

    Args:
        made: a sentence on when and by which version the page was made.
    """
    sections = [
        progress.curves(run),
        results.stages(run),
        listening.before_and_after(heard),
        listening.extremes(heard),
        listening.blind_test(heard, {"source": run.name}),
        results.score_sweep(run),
        provenance.what_went_wrong(run),
        provenance.what_ran(run),
    ]
    links = [
        ("curves", "Curves"),
        ("stages", "Stages" if len(run.stages) > 1 else "Before and after"),
        ("clips", "Clips"),
        ("extremes", "Best and worst"),
        ("blind", "Blind test"),
        ("sweep", "Score sweep"),
        ("troubles", "What went wrong"),
        ("provenance", "What ran"),
    ]
    return page(f"{run.name}: rlloop report", verdict.head(run), links, sections, made)


def comparison_page(a: RunRecord, b: RunRecord, found: Comparison, heard: Listening, made: str) -> str:
    """The report of run A against run B."""
    sections = [
        progress.curves_of_two(a, b),
        results.differences(found),
        listening.before_and_after(heard, "A and B, same prompt and seed"),
        listening.blind_test(heard, {"source": f"{a.name} against {b.name}"}),
        results.config_differences(found),
        provenance.what_ran_of_two(a, b),
    ]
    links = [
        ("curves", "Curves"),
        ("differences", "Differences"),
        ("clips", "Clips"),
        ("blind", "Blind test"),
        ("configuration", "Configuration"),
        ("provenance", "What ran"),
    ]
    return page(f"{a.name} against {b.name}: rlloop report", verdict.head_of_two(a, b, found), links, sections, made)


def page(title: str, head: Html, links: Sequence[tuple[str, str]], sections: Sequence[Html], made: str) -> str:
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; media-src data:; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    meta: list[Any] = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Html(style)),
    ]
    items = [tag("li", tag("a", name, href=f"#{key}")) for key, name in links]
    body = [
        tag("a", "Skip to the report", href="#report", class_="skip"),
        head,
        tag("nav", tag("ul", *items), aria_label=NAVIGATION),
        tag("main", *sections, id="report", tabindex="-1"),
        tag("noscript", tag("p", "Without JavaScript everything but the blind test works.")),
        tag("footer", tag("p", made)),
        tag("script", Html(script)),
    ]
    return f"<!doctype html>\n{tag('html', tag('head', *meta), tag('body', *body), lang='en')}\n"


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
