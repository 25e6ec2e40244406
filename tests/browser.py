"""MLflow's pages, seen by Debian's Chromium without a window.

`python tests/browser.py RUNS CURVES FOLDER` takes the README's pictures anew: the two links are
those that `mirrorlib ui` prints.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATIENCE = 240_000.0
"""Milliseconds that a page may take on a busy machine."""
TRACES = """charts => charts.map(chart => chart.data.map(
    trace => ({name: trace.name || "", mode: trace.mode || "", x: Array.from(trace.x || []),
               y: Array.from(trace.y || [])})))"""


def chromium() -> str | None:
    """Where it is installed, None where it is not."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def window() -> Iterator[Any]:
    """A page of 1440 x 900 to go to links with."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(PATIENCE)
        yield page
        browser.close()


def open_runs(page: Any, url: str) -> None:
    """The table of runs."""
    page.goto(url, wait_until="commit")
    page.wait_for_selector("[row-id]")
    _close_panels(page)


def open_curves(page: Any, url: str) -> None:
    """The charts, once one is drawn."""
    page.goto("about:blank")
    page.goto(url, wait_until="commit")
    page.wait_for_selector(".js-plotly-plot .main-svg", state="attached")
    _close_panels(page)


def traces(page: Any) -> list[list[dict[str, Any]]]:
    """Of every chart in sight its traces: name, mode, x and y."""
    found: list[list[dict[str, Any]]] = page.eval_on_selector_all(".js-plotly-plot", TRACES)
    return found


def picture(page: Any, path: Path) -> None:
    page.wait_for_timeout(3000)
    page.screenshot(path=path)


def _close_panels(page: Any) -> None:
    """What MLflow opens unasked: its assistant, and a note on shared views."""
    buttons = page.get_by_label("Close", exact=True)
    while buttons.count():
        buttons.last.click(timeout=20_000)
        page.wait_for_timeout(500)


def main(runs: str, curves: str, folder: str) -> None:
    with window() as page:
        open_runs(page, runs)
        picture(page, Path(folder) / "mlflow-runs.png")
        open_curves(page, curves)
        picture(page, Path(folder) / "mlflow-charts.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
