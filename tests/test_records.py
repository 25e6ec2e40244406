"""Records: small files that come back as they were, and say what they are not."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorlib.errors import UserError
from mirrorlib.recipe import load_recipe
from mirrorlib.records import (
    CURVE_POINTS,
    Record,
    make_record,
    read_record,
    read_records,
    records_of,
    used_versions,
)
from mirrorlib.registry import Registry
from mirrorlib.reporting.report import Report

RECORD = Record(
    suite="s", arm="tau-0.1", seed=3, recipe_sha="0123456789ab",
    recipe={"train.steps": 9, "evaluation.templates": ["a {}", "[\n {}  ]"], "x": None},
    versions={"mirrorlib": "1"}, libraries={"torch": "2"}, commit=None, machine="a, 2 cores",
    finished="2026-01-01T00:00:00+00:00", metrics={"eval/success_rate": 0.25},
    counts={"eval/success_rate": (2, 8)}, curves={"train/loss": ([1, 2], [0.5, 1e-9])},
)  # fmt: skip


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    path = RECORD.write(tmp_path / "new" / "folder")
    assert path.name == "tau-0.1-seed3-0123456789ab.json"
    assert read_record(path) == RECORD
    assert [p.name for p in path.parent.iterdir()] == [path.name]


TEXTS = st.text(st.characters(codec="utf-8")) | st.text('[]{}", \n\\ 1')


@settings(max_examples=40, deadline=None)
@given(
    leaves=st.dictionaries(TEXTS, TEXTS | st.lists(TEXTS | st.integers() | st.none())),
    metrics=st.dictionaries(TEXTS, st.floats(allow_nan=False)),
    curves=st.dictionaries(TEXTS, st.tuples(st.lists(st.integers()), st.lists(st.integers()))),
)
def test_whatever_it_holds(tmp_path_factory, leaves, metrics, curves) -> None:
    folder = tmp_path_factory.getbasetemp() / "whatever"
    record = replace(RECORD, recipe=leaves, metrics=metrics, curves=curves)
    assert read_record(record.write(folder)) == record


def test_a_list_takes_one_line(tmp_path: Path) -> None:
    lines = RECORD.write(tmp_path).read_text().splitlines()
    assert "   [1, 2]," in lines and '  "eval/success_rate": [2, 8]' in lines
    assert len(lines) < 40


def test_a_record_is_written_over_an_older_one_and_beside_others(tmp_path: Path) -> None:
    RECORD.write(tmp_path)
    newer = replace(RECORD, versions={"mirrorlib": "2"})
    other = replace(RECORD, arm="a / b", seed=1, recipe_sha="9" * 12)
    twin = replace(RECORD, arm="twin")
    for record in (newer, other, twin):
        record.write(tmp_path)
    assert read_records(tmp_path) == [other, newer, twin]
    assert records_of(tmp_path, RECORD.recipe_sha) == [newer, twin]
    assert records_of(tmp_path, "a / b") == []
    assert (tmp_path / "a___b-seed1-999999999999.json").exists()
    assert read_records(tmp_path / "nowhere") == records_of(tmp_path / "nowhere", "9") == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is no record of a run"),
        ("[]", "is no record of a run"),
        ("{}", r"is no record of a run \('format'\); delete it"),
        ('{"format": 1}', "is no record of a run"),
        ('{"format": 0}', "a record of another version of mirrorlib; run it again"),
    ],
)
def test_what_is_no_record_is_named(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"x\.json: {told}"):
        read_records(tmp_path)


def test_a_record_with_a_key_too_many_or_too_few_is_none(tmp_path: Path) -> None:
    path = RECORD.write(tmp_path)
    content = json.loads(path.read_text())
    for broken in (content | {"extra": 1}, {k: v for k, v in content.items() if k != "seed"}):
        path.write_text(json.dumps(broken))
        with pytest.raises(UserError, match="is no record of a run"):
            read_record(path)
    path.unlink()
    with pytest.raises(UserError, match=r"cannot be read \(No such file"):
        read_record(path)


@pytest.fixture
def made(tmp_path: Path, recipe_file: Path, registry: Registry):
    """A record of a run with so many rows of metrics."""

    def make(rows: int, *overrides: str) -> Record:
        steps = [
            {"step": 10 * i, "time": 1.0, "train/loss": 1 / (i + 1)}
            | ({"train/rare": 0.123456789} if i % 2 else {})
            for i in range(rows)
        ]
        lines = [*steps, {"step": 10 * rows, "time": 2.0, "eval/success_rate": 0.5}]
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        report = Report("n", tmp_path)
        report.add_share("eval/success_rate", 1, 2)
        recipe = load_recipe(recipe_file, overrides, registry=registry)
        return make_record(recipe, report, "abc")

    return make


def test_what_a_run_leaves(made) -> None:
    record = made(3, "tracking.suite=s", "tracking.arm=a", "name=other", "data.workers=3")
    assert (record.suite, record.arm, record.seed, record.commit) == ("s", "a", 1, "abc")
    assert record.metrics == {"eval/success_rate": 0.5}
    assert record.counts == {"eval/success_rate": (1, 2)}
    assert record.curves == {
        "train/loss": ([0, 10, 20], [1.0, 0.5, 0.33333]), "train/rare": ([10], [0.12346]),
    }  # fmt: skip
    assert record.recipe["objective.temperature"] == 0.2
    assert not {"name", "data.workers", "tracking.suite"} & record.recipe.keys()
    assert record.recipe_sha == made(3).recipe_sha != made(3, "seed=2").recipe_sha
    assert made(3).arm == "pull"
    assert " cores, " in record.machine
    assert {"python", "torch", "numpy"} <= record.libraries.keys()
    assert record.libraries["numpy"] == version("numpy")


@pytest.mark.parametrize("rows", [0, 1, CURVE_POINTS, CURVE_POINTS + 1, 1000])
def test_curves_are_thinned_evenly_from_first_to_last(made, rows: int) -> None:
    curves = made(rows).curves
    if rows == 0:
        assert curves == {}
        return
    steps, values = curves["train/loss"]
    assert len(steps) == len(set(steps)) == min(rows, CURVE_POINTS)
    assert (steps[0], steps[-1]) == (0, 10 * (rows - 1))
    gaps = [b - a for a, b in itertools.pairwise(steps)]
    assert not gaps or max(gaps) - min(gaps) <= 10
    assert values == [float(f"{1 / (step / 10 + 1):.5g}") for step in steps]


def test_the_versions_are_those_of_what_the_recipe_names() -> None:
    pytest.importorskip("mirrorlib_tabletop")
    path = Path(__file__).parents[1] / "recipes" / "none.yaml"
    assert used_versions(load_recipe(path)) == {
        name: version(name)
        for name in ("mirrorlib", "mirrorlib-arp", "mirrorlib-objectives", "mirrorlib-tabletop",
                     "mirrorlib-torchvision")
    }  # fmt: skip
