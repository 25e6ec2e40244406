"""What a reader sees of a comparison: tables, page, CSV, figures."""

from __future__ import annotations

import csv
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from comparison_records import record, suite
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorlib.comparison import Comparison, compare
from mirrorlib.comparison.figures import APART, arms_figure, band, curves_figure, differences_figure
from mirrorlib.comparison.output import summary_csv, values_csv, write_comparison
from mirrorlib.comparison.page import page
from mirrorlib.comparison.table import number, p_value, summary, tables
from mirrorlib.errors import UserError

SUCCESS = "eval/success_rate"
INTERVAL = re.compile(r"\[([-+.\d]+), ([-+.\d]+)\]")
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Cells by whether they are marked, attributes, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[tuple[bool, str]] = []
        self.tags: set[str] = set()
        self.sources: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        named = dict(attributes)
        self.sources += [named[key] or "" for key in ("src", "href") if key in named]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "td":
            self.cells.append((named.get("class") == "marked", ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["td"]:
            marked, text = self.cells[-1]
            self.cells[-1] = (marked, text + data)


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def planted(seeds: int = 8, curves: bool = False) -> Comparison:
    """`good` is better by 10 points, `same` is not; both are noisy."""
    generator = np.random.default_rng(5)
    steps = list(range(0, 50, 10))
    records = []
    for seed in range(seeds):
        luck = generator.normal(0.6, 0.05)
        for arm, gain in (("none", 0.0), ("good", 0.1), ("same", 0.0)):
            rate = luck + gain + generator.normal(0, 0.02)
            metrics = {SUCCESS: rate, "eval/success_rate/tap": rate, "cost/train_seconds": 60.0}
            drawn = {"train/loss": (steps, [float(s) + luck for s in steps])} if curves else {}
            records.append(record(arm, seed, metrics, curves=drawn))
    return compare(records)


rates = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1), st.just(math.nan))
arms = st.lists(rates, min_size=1, max_size=9)


@settings(deadline=None, max_examples=80)
@given(st.fixed_dictionaries({"none": arms, "pull": arms, "push": arms}))
def test_a_difference_whose_interval_holds_zero_is_never_highlighted(values):
    comparison = compare(suite(values))
    markdown = [c.strip() for c in re.split(r"[|\n]", summary(comparison)) if INTERVAL.search(c)]
    marked = [cell for cell in markdown if cell.endswith("*")]
    cells = Page(page(comparison, [], "")).cells
    assert [text for is_marked, text in cells if is_marked] == marked
    for text in marked:
        low, high = map(float, INTERVAL.search(text).groups())
        assert low > 0 or high < 0
    gaps = comparison.differences[SUCCESS].values()
    assert len(marked) == sum(gap.excludes_zero for gap in gaps)


def test_figures_colour_what_is_marked_and_nothing_else():
    (axes,) = differences_figure(planted()).axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["good", "same"]
    coloured = [float(np.mean(x.get_ydata())) for x in axes.lines if x.get_color() == APART]
    assert coloured == [0, 0]


def test_a_planted_effect_is_marked_everywhere():
    comparison = planted()
    for text in (summary(comparison), page(comparison, [], "")):
        assert "exploratory, uncorrected" in text
        assert text.count("uncorrected") == 1
    marked = [text for is_marked, text in Page(page(comparison, [], "")).cells if is_marked]
    assert [7 < float(text.split()[0]) < 13 for text in marked] == [True, True]
    row = {r["arm"]: r for r in read(summary_csv(comparison)) if r["metric"] == SUCCESS}
    assert (row["good"]["excludes_zero"], row["same"]["excludes_zero"]) == ("True", "False")


@settings(deadline=None, max_examples=8)
@given(st.fixed_dictionaries({a: st.lists(rates, min_size=1, max_size=4) for a in ("none", "b")}))
def test_under_five_seeds_no_output_has_an_interval(values):
    few = compare(suite(values, curves={"train/loss": ([0, 10], [2.0, 1.0])}))
    for text in (summary(few), page(few, [], "")):
        assert not INTERVAL.search(text)
        assert "points only" in text
    for row in read(summary_csv(few)):
        assert {row["low"], row["high"], row["difference_low"], row["difference_high"]} == {""}
    figures = [figure(few) for figure in (arms_figure, differences_figure, curves_figure)]
    for axes in [axes for figure in figures if figure for axes in figure.axes]:
        assert not axes.collections
        assert {line.get_marker() for line in axes.lines} <= {"o", "None"}


def test_the_points_are_listed_in_the_order_of_the_seeds():
    text = summary(compare(suite({"none": [0.5, 0.25], "pull": [0.75, 0.125]})))
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["pull", "2", "75.0, 12.5", "+25.0, -12.5", "2"] in rows
    assert "none 2 seeds, pull 2 seeds: points only" in text


def test_an_arm_without_a_metric_has_an_empty_row():
    trained = "eval/recall_at_1_u2e"
    records = [record("none", 0, {SUCCESS: 0.5}), record("pull", 0, {SUCCESS: 0.5, trained: 0.25})]
    (table,) = [t for t in tables(compare(records)) if t.title.startswith("Recall@1 trained")]
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["none", "0", "–"], ["pull", "1", "25.0"],
    ]  # fmt: skip
    assert "arms are not compared by it" in table.note


def test_chance_stands_beside_what_has_one():
    recognition = "eval/recognition_accuracy"
    records = [
        record("none", s, {recognition: 0.5, f"{recognition}_chance": 1 / 21}) for s in (0, 1)
    ]
    assert "Chance: 4.8 %." in summary(compare(records))


def test_no_spread_over_seeds_is_told():
    text = summary(compare(suite({"none": [0.5] * 6, "pull": [0.75] * 6})))
    assert "+25.0 [25.0, 25.0], the same in every seed: no noise to judge by" in text
    assert " *\n" not in text and " * |" not in text


def test_p_values_are_for_the_question_asked_in_advance_alone():
    values = {"none": list(np.linspace(0.5, 0.6, 6)), "infonce": list(np.linspace(0.6, 0.8, 6))}
    assert "p, Holm" in summary(compare(suite(values), question="infonce"))
    other = compare(suite(values))
    assert "p," not in "".join(h for table in tables(other) for h in table.header)
    assert {row["p_t"] for row in read(summary_csv(other))} == {""}


def test_costs_are_never_differences():
    records = [
        record(arm, seed, {"cost/train_seconds": 10.0 + seed, "cost/train_peak_bytes": 2.0**30},
               machine=machine)
        for arm, machine in (("none", "here"), ("pull", "there"))
        for seed in range(6)
    ]  # fmt: skip
    (table,) = [t for t in tables(compare(records)) if t.title.startswith("cost")]
    assert [cell.text for cell in table.rows[1]] == [
        "pull", "6", "12 (10 to 15)", "1.0 (1.0 to 1.0)", "there",
    ]  # fmt: skip
    assert "cannot be compared" in table.note


def test_the_page_stands_alone_and_escapes_what_records_say(tmp_path: Path):
    evil = "<script>alert(1)</script> | $x^2$"
    records = suite({"none": [0.5] * 6, evil: list(np.linspace(0.6, 0.9, 6))}, machine="<b>m</b>")
    write_comparison(compare(records, name="<i>n</i>"), tmp_path / "out", "compare '<u>'")
    text = (tmp_path / "out" / "page.html").read_text()
    read_page = Page(text)
    assert not {"script", "b", "i", "u", "link", "iframe"} & read_page.tags
    assert (False, evil) in read_page.cells
    assert "http" not in text and "//" not in re.sub(r"base64,[^\"]*", "", text)
    assert len(read_page.sources) == 2
    assert all(source.startswith("data:image/png;base64,") for source in read_page.sources)
    assert "url(" not in text and "@import" not in text
    assert r"\<script>" in (tmp_path / "out" / "summary.md").read_text()


def test_the_page_says_where_it_comes_from():
    text = page(planted(), [], "mirrorlib compare x --no-mlflow")
    for said in ("2026-01-02", "0123456789ab", "mirrorlib 1.0", "torch 2.6", "a machine", "good-3",
                 "mirrorlib compare x --no-mlflow"):  # fmt: skip
        assert said in text


def test_csv_gives_every_value_back_to_the_bit():
    values = {"none": [1 / 3, math.nan, 0.1 + 0.2], 'a, "b"\n': [1e-300, -0.0, math.inf]}
    rows = [r for r in read(values_csv(compare(suite(values)))) if r["metric"] == SUCCESS]
    assert len(rows) == 6
    for row in rows:
        expected, found = values[row["arm"]][int(row["seed"])], float(row["value"])
        assert found == expected or (math.isnan(found) and math.isnan(expected))


def test_the_summary_csv_holds_the_comparison():
    comparison = planted()
    for row in read(summary_csv(comparison)):
        found = comparison.summaries[row["metric"]][row["arm"]]
        assert [float(row[k]) for k in ("mean", "low", "high")] == [
            found.mean,
            found.low,
            found.high,
        ]
        gap = comparison.differences.get(row["metric"], {}).get(row["arm"])
        if gap is None:
            assert row["difference"] == row["pairs"] == ""
        else:
            ends = [float(row[f"difference{k}"]) for k in ("", "_low", "_high")]
            assert ends == [gap.mean, gap.low, gap.high]


def test_writing_again_leaves_the_new_alone(tmp_path: Path):
    out = tmp_path / "deep" / "out"
    write_comparison(planted(curves=True), out, "")
    assert {p.name for p in (out / "figures").iterdir()} == {
        "arms.png", "differences.png", "curves.png",
    }  # fmt: skip
    write_comparison(planted(), out, "")
    assert {p.name for p in (out / "figures").iterdir()} == {"arms.png", "differences.png"}
    assert [p.name for p in out.parent.iterdir()] == ["out"]
    (out / "notes.txt").touch()
    with pytest.raises(UserError, match="holds more than a comparison; choose another --out"):
        write_comparison(planted(), out, "")
    with pytest.raises(UserError, match="cannot be written"):
        write_comparison(planted(), out / "notes.txt", "")


def test_curves_have_bands_over_common_steps():
    grid, values = band([([0, 10, 20, 30], [0.0, 1.0, 2.0, 3.0]), ([5, 25], [0.5, 4.5])])
    assert grid.tolist() == [10, 20]
    assert values.tolist() == [[1.0, 2.0], [1.5, 3.5]]
    (axes,) = curves_figure(planted(5, curves=True)).axes
    assert len(axes.collections) == len(axes.lines) == 3


@pytest.mark.parametrize(
    ("value", "sign", "shown"),
    [(94.04, "", "94.0"), (0, "+", "0.0"), (-0.0, "+", "0.0"), (0.04, "+", "+0.040"),
     (-0.00012, "", "-0.00012"), (3.46, "+", "+3.5"), (1e-20, "+", "0.0")],
)  # fmt: skip
def test_what_is_not_zero_does_not_look_like_zero(value: float, sign: str, shown: str):
    assert number(value, sign) == shown


@pytest.mark.parametrize(
    ("p", "shown"), [(0.0004, "< .001"), (0.0316, ".032"), (1.0, "1.000"), (math.nan, "–")]
)
def test_p_values_are_shown(p: float, shown: str):
    assert p_value(p) == shown
