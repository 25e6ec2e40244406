"""Running a suite: nothing twice, nothing lost, whatever ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from faking_suites import (
    BASE,
    SUITE,
    behave,
    eventually,
    fake_command,
    noted,
    process_of,
    record_of,
    start,
)
from filelock import FileLock
from small_run import SMALL, environment

from mirrorlib.errors import UserError
from mirrorlib.records import read_records
from mirrorlib.suite import Suite, load_suite
from mirrorlib.suites import running

pytest.importorskip("mirrorlib_tabletop")

ALL = ["warm0", "cold0", "warm1", "cold1"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(running, "command", fake_command)
    Path("q.yaml").write_text(SUITE.format(recipe=BASE))
    return tmp_path


@pytest.fixture
def suite(here: Path) -> Suite:
    return load_suite("q.yaml")


def test_every_run_is_run_once_seed_by_seed(suite: Suite, here: Path, capsys) -> None:
    running.run_suite(suite)
    assert noted(here, "ended") == ALL
    told = capsys.readouterr().out
    assert told.startswith("q: 0 of 4 runs are done\n")
    assert "[1/4] warm seed 0\n" in told and "[4/4] cold seed 1, about 1 min to go\n" in told
    assert told.endswith(
        "q: 4 of 4 runs are done; records: records/q\nnext: mirrorlib compare q.yaml\n"
    )
    running.run_suite(suite)
    assert noted(here, "began") == ALL
    assert len(read_records(Path("records/q"))) == 4


def test_what_is_done_is_skipped_and_the_rest_run(suite: Suite, here: Path) -> None:
    for run in suite.runs[1:3]:
        record_of(suite, run).write(suite.records)
    running.run_suite(suite)
    assert noted(here, "began") == ["warm0", "cold1"]


def test_a_record_of_another_recipe_does_not_count(suite: Suite, here: Path) -> None:
    running.run_suite(load_suite("q.yaml", ["train.steps=7"]))
    running.run_suite(suite)
    assert noted(here, "began") == [*ALL, *ALL]


def test_other_versions_are_run_again_and_it_is_said_why(suite: Suite, here: Path, capsys) -> None:
    run = suite.runs[0]
    versions = dict(run.versions) | {"mirrorlib": "0.0.1", "mirrorlib-gone": "1"}
    del versions["mirrorlib-arp"]
    replace(record_of(suite, run), versions=versions).write(suite.records)
    running.run_suite(suite)
    assert noted(here, "began") == ALL
    now = run.versions
    assert capsys.readouterr().err == (
        f"mirrorlib: warm seed 0 is run again: mirrorlib was 0.0.1, is {now['mirrorlib']}, "
        f"mirrorlib-arp was absent, is {now['mirrorlib-arp']}, mirrorlib-gone was 1, is gone\n"
    )
    assert running.waiting(suite) == []


def test_the_same_run_of_another_suite_or_arm_is_taken_over(suite: Suite, here: Path, capsys):
    first, second, third, _ = suite.runs
    others = replace(suite, name="other", records=Path("records/other"))
    record_of(others, replace(first, arm="else")).write(others.records)
    record_of(suite, replace(second, arm="renamed")).write(suite.records)
    stale = replace(record_of(others, third), versions={"mirrorlib": "0.0.1"})
    stale.write(others.records)
    running.run_suite(suite)
    assert noted(here, "began") == ["warm1", "cold1"]
    assert "warm seed 0: the same run was done before: records/q/warm-seed0" in (
        capsys.readouterr().err
    )
    records = [record for record in read_records(suite.records) if record.arm != "renamed"]
    assert [(r.suite, r.arm, r.seed) for r in records] == [
        ("q", arm, seed) for arm in ("cold", "warm") for seed in (0, 1)
    ]


def test_a_run_that_fails_stops_no_other(suite: Suite, here: Path) -> None:
    behave(here, ["cold0"], "fail")
    behave(here, ["warm1"], "forget")
    with pytest.raises(UserError) as error:
        running.run_suite(suite)
    name = suite.runs[2].recipe.name
    assert str(error.value) == (
        "2 of 4 runs failed: cold seed 0 (exit code 2), warm seed 1 (left no record; delete "
        f"runs/{name}); the same command tries them again"
    )
    assert noted(here, "began") == ALL
    behave(here, ["cold0", "warm1"], None)
    running.run_suite(suite)
    assert noted(here, "began")[4:] == ["cold0", "warm1"]


def test_a_recipe_that_changes_underway_ends_the_suite(suite: Suite, here: Path) -> None:
    base = here / "base.yaml"
    base.write_text(BASE.read_text())
    suite = replace(suite, recipe_file=base)
    running.run_suite(replace(suite, runs=suite.runs[:1]))
    base.write_text(base.read_text().replace("episodes: 2", "episodes: 3"))
    with pytest.raises(UserError, match=r"base\.yaml has changed since the suite began"):
        running.run_suite(suite)
    assert noted(here, "began") == ["warm0"]


def test_a_run_that_another_process_runs_is_left_to_it(suite: Suite, here: Path, capsys) -> None:
    folder = suite.runs[3].folder
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"):
        running.run_suite(suite)
    assert noted(here, "began") == ALL[:3]
    assert "left to other processes: cold seed 1\n" in capsys.readouterr().out
    running.run_suite(suite)
    assert noted(here, "began") == ALL


def test_two_suites_side_by_side_share_the_runs(here: Path) -> None:
    behave(here, ["warm0"], "wait")
    first = start(here)
    eventually(lambda: noted(here, "began") == ["warm0"])
    second = start(here)
    told, _ = second.communicate(timeout=60)
    assert second.returncode == 0
    assert (
        "q: 3 of 4 runs are done; records: records/q\nleft to other processes: warm seed 0" in told
    )
    behave(here, ["warm0"], None)
    told, _ = first.communicate(timeout=60)
    assert first.returncode == 0
    assert "q: 4 of 4 runs are done" in told and "left to" not in told
    assert sorted(noted(here, "began")) == sorted(noted(here, "ended")) == sorted(ALL)


def test_a_suite_that_is_killed_leaves_its_run_which_is_not_run_twice(here: Path) -> None:
    behave(here, ["cold0"], "wait")
    killed = start(here)
    eventually(lambda: noted(here, "began") == ALL[:2])
    killed.kill()
    killed.wait()
    running.run_suite(load_suite("q.yaml"))
    assert noted(here, "began") == ALL  # cold0 is still run by the process that was left behind
    behave(here, ["cold0"], None)
    eventually(lambda: len(noted(here, "ended")) == 4)
    running.run_suite(load_suite("q.yaml"))
    assert noted(here, "began") == ALL


def test_a_run_that_is_killed_with_its_suite_is_gone_on_with(here: Path) -> None:
    behave(here, ["cold0"], "wait")
    killed = start(here)
    eventually(lambda: noted(here, "began") == ALL[:2])
    killed.kill()
    killed.wait()
    child = process_of(here, "cold0")
    os.kill(child, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{child}").exists() or _is_zombie(child))
    behave(here, ["cold0"], None)
    running.run_suite(load_suite("q.yaml"))
    assert noted(here, "began") == ["warm0", "cold0", "cold0", "warm1", "cold1"]


def _is_zombie(process: int) -> bool:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_run_once_and_the_suite(here: Path, number: int) -> None:
    behave(here, ["cold0"], "wait")
    process = start(here)
    eventually(lambda: noted(here, "began") == ALL[:2])
    os.killpg(process.pid, number)  # as a terminal does
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on with q" in errors
    assert noted(here, "stopped") == ["cold0"]
    behave(here, ["cold0"], None)
    running.run_suite(load_suite("q.yaml"))
    assert noted(here, "ended") == ALL


def test_locks_are_not_committed(suite: Suite) -> None:
    running.run_suite(suite)
    assert (suite.records / ".running" / ".gitignore").read_text() == "*\n"
    assert [p for p in suite.records.iterdir() if p.suffix != ".json"] == [
        suite.records / ".running"
    ]


@pytest.mark.slow
def test_a_real_suite_runs_and_is_not_run_twice(here: Path) -> None:
    """A run that has stopped in the middle goes on, the other one follows, and both leave
    records."""
    short = [
        *SMALL, "source.tasks={turn_tap: null}", "source.train=2", "batch.instructions=2",
        "train.steps=4", "train.checkpoint_every=2", "evaluation.simulator=null",
    ]  # fmt: skip
    suite = load_suite("q.yaml", short, seeds=[5], records="mine")
    half = [*suite.arguments(suite.runs[0]), "train.max_steps=2"]
    launch = [sys.executable, "-m"]
    options = {"cwd": here, "env": environment(here), "capture_output": True, "text": True}
    done = subprocess.run([*launch, "mirrorlib.run", *half], **options, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not suite.records.exists()
    line = [
        *launch,
        "mirrorlib.cli",
        "suite",
        "q.yaml",
        "--seeds",
        "5",
        "--records",
        "mine",
        *short,
    ]
    done = subprocess.run(line, **options, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"{suite.runs[0].folder} continues from step-000002" in done.stderr
    records = read_records(suite.records)
    assert [(r.arm, r.seed, r.recipe_sha) for r in records] == sorted(
        (run.arm, 5, run.recipe.sha) for run in suite.runs
    )
    assert all(run.folder.is_dir() for run in suite.runs)
    again = subprocess.run(line, **options, timeout=60)
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.startswith("q: 2 of 2 runs are done\n\nq: 2 of 2 runs are done; records")
