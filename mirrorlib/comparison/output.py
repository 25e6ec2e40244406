"""What a comparison leaves: summary.md, values.csv, summary.csv, page.html and figures."""

from __future__ import annotations

import csv
import io
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from mirrorlib.comparison.arms import Comparison
from mirrorlib.comparison.figures import draw
from mirrorlib.comparison.page import page
from mirrorlib.comparison.statistics import Summary
from mirrorlib.comparison.table import summary
from mirrorlib.errors import UserError
from mirrorlib.files import write_whole

OWN = {"summary.md", "values.csv", "summary.csv", "page.html", "figures"}
FOLDER = "comparison"


def default_folder(name: str) -> Path:
    """`comparison/<name>`, within the working folder."""
    return Path(FOLDER) / (re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".") or "_")


def write_comparison(comparison: Comparison, folder: Path, command: str) -> None:
    """Writes everything, whole, in the place of an earlier comparison.

    Raises UserError where the folder holds anything else, or cannot be written.
    """
    place = folder.resolve()
    partial = place.with_name(f".{place.name}.partial")
    try:
        if place.exists() and not {path.name for path in place.iterdir()} <= OWN:
            raise UserError(f"{folder}: holds more than a comparison; choose another --out")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        images = draw(comparison, partial / "figures")
        write_whole(partial / "summary.md", summary(comparison))
        write_whole(partial / "values.csv", values_csv(comparison))
        write_whole(partial / "summary.csv", summary_csv(comparison))
        write_whole(partial / "page.html", page(comparison, images, command))
        if place.exists():
            shutil.rmtree(place)
        partial.replace(place)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); choose another --out"
        ) from error


def values_csv(comparison: Comparison) -> str:
    """metric, arm, seed, value: all that was measured, values to the bit."""
    rows = [
        (metric, record.arm, record.seed, repr(float(record.metrics[metric])))
        for metric in comparison.summaries
        for record in comparison.records
        if metric in record.metrics
    ]
    return _csv(("metric", "arm", "seed", "value"), rows)


def summary_csv(comparison: Comparison) -> str:
    """A row for each metric and arm; empty where there is no interval, difference or test."""
    tests = {(test.metric, test.arm): test for test in comparison.tests}
    rows = []
    for metric, by_arm in comparison.summaries.items():
        for arm, found in by_arm.items():
            gap = comparison.differences.get(metric, {}).get(arm)
            test = tests.get((metric, arm))
            p = (test.t, test.t_holm, test.flips, test.flips_holm) if test else ()
            rows.append(
                (
                    metric, arm, found.n, *_ends(found),
                    comparison.baseline if gap else "", gap.n if gap else "",
                    *(_ends(gap) if gap else [""] * 3), gap.excludes_zero if gap else "",
                    *([_plain(value) for value in p] or [""] * 4),
                )
            )  # fmt: skip
    header = (
        "metric", "arm", "seeds", "mean", "low", "high", "baseline", "pairs", "difference",
        "difference_low", "difference_high", "excludes_zero", "p_t", "p_t_holm", "p_sign_flip",
        "p_sign_flip_holm",
    )  # fmt: skip
    return _csv(header, rows)


def _ends(found: Summary) -> list[str]:
    return [_plain(value) for value in (found.mean, found.low, found.high)]


def _plain(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else repr(float(value))


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
