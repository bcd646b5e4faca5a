"""Pictures of a run for the README: the top of its report, and its first curves alone.

    python -m bench.pictures runs/mini

writes docs/images/report.png and docs/images/curves.png. Needs a Chromium on the machine (`apt-get install chromium`).
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from rlloop.recipes.run_report import report_page, write_page

OUT = Path(__file__).parents[1] / "docs" / "images"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTH, HEIGHT = 1200, 1050
NUM_CURVES = 3  # one row of this width
MARGIN = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run directory")
    run = parser.parse_args().run
    chromium = os.environ.get("RLLOOP_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if chromium is None:
        parser.error(
            "no Chromium is found; install one (Debian: apt-get install chromium) or name it in RLLOOP_CHROMIUM"
        )
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "report.html"
        write_page(report_page([run]), file)
        as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=chromium, args=as_root)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(file.as_uri())
        page.screenshot(path=OUT / "report.png")
        charts = page.locator(".charts")
        figures = [charts.locator("figure").nth(n).bounding_box() for n in range(NUM_CURVES)]
        captions = [charts.locator("figcaption").nth(n).bounding_box() for n in range(NUM_CURVES)]
        left, top = min(box["x"] for box in figures) - MARGIN, min(box["y"] for box in figures) - MARGIN
        right = max(box["x"] + box["width"] for box in figures) + MARGIN
        bottom = max(box["y"] + box["height"] for box in captions) + MARGIN
        clip = {"x": left, "y": top, "width": right - left, "height": bottom - top}
        page.screenshot(path=OUT / "curves.png", clip=clip, full_page=True)
        browser.close()


if __name__ == "__main__":
    main()
