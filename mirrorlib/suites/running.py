"""`mirrorlib suite`: one process for each run that has no record yet, seed by seed."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mirrorlib.errors import UserError, suggestion
from mirrorlib.recipe import load_recipe
from mirrorlib.suite import Run, Suite, records_folder
from mirrorlib.suites.records import adopt, claimed, is_done, outdated

INTERRUPTED = 130


def chosen(suite: Suite, arms: Sequence[str] | None) -> Suite:
    """The suite with the runs of these arms alone. Raises UserError for an arm it has not."""
    for arm in arms or ():
        if arm not in suite.arms:
            close = suggestion(arm, suite.arms) or f"; there are: {', '.join(suite.arms)}"
            raise UserError(f"{suite.file} has no arm {arm!r}{close}")
    runs = tuple(run for run in suite.runs if arms is None or run.arm in arms)
    return replace(suite, runs=runs)


def waiting(suite: Suite) -> list[Run]:
    """The runs that have no record, in order; says on stderr what was taken over from another
    suite, and why a run that has a record is run again. Raises UserError."""
    return [run for run in suite.runs if not _has_record(suite, run)]


def print_lines(suite: Suite) -> None:
    """One shell line for each run without a record, which runs it wherever it is sent."""
    for run in waiting(suite):
        start = ["accelerate", "launch", "-m", "mirrorlib.run"]
        print(shlex.join([*start, *suite.arguments(run)]))


def run_suite(suite: Suite) -> None:
    """Runs what has no record, each run in a process of its own; one that fails stops no other.

    Raises UserError at the end where runs failed, or at once where the base recipe changes
    underway, and KeyboardInterrupt once the process that runs has stopped.
    """
    todo = waiting(suite)
    print(f"{suite.name}: {len(suite.runs) - len(todo)} of {len(suite.runs)} runs are done")
    tally = _Tally(len(todo))
    try:
        for run in todo:
            _run(suite, run, tally)
    except KeyboardInterrupt:
        print(f"mirrorlib: the same command goes on with {suite.name}", file=sys.stderr)
        raise
    tally.tell(suite)


def command(suite: Suite, run: Run) -> list[str]:
    """What runs a run in a process of its own."""
    return [sys.executable, "-m", "mirrorlib.run", *suite.arguments(run)]


@dataclass
class _Tally:
    """What became of the runs so far. seconds: of each that ended well."""

    total: int
    number: int = 0
    seconds: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def announce(self, run: Run) -> None:
        eta = ""
        if self.seconds:
            mean = sum(self.seconds) / len(self.seconds)
            eta = f", about {_duration(mean * (self.total - self.number + 1))} to go"
        print(f"\n[{self.number}/{self.total}] {run.label}{eta}", flush=True)

    def tell(self, suite: Suite) -> None:
        """Raises UserError where runs failed."""
        done = sum(is_done(suite, run) for run in suite.runs)
        print(
            f"\n{suite.name}: {done} of {len(suite.runs)} runs are done; records: {suite.records}"
        )
        if self.left:
            print(f"left to other processes: {', '.join(self.left)}")
        usual = suite.records == records_folder(suite)
        records = () if usual else ("--records", str(suite.records))
        print("next:", shlex.join(["mirrorlib", "compare", str(suite.file), *records]), flush=True)
        if self.failed:
            raise UserError(
                f"{len(self.failed)} of {self.total} runs failed: {', '.join(self.failed)}; the "
                "same command tries them again"
            )


def _has_record(suite: Suite, run: Run) -> bool:
    if is_done(suite, run):
        return True
    if (taken := adopt(suite, run)) is not None:
        print(f"mirrorlib: {run.label}: the same run was done before: {taken}", file=sys.stderr)
        return True
    if (reason := outdated(suite, run)) is not None:
        print(f"mirrorlib: {run.label} is run again: {reason}", file=sys.stderr)
    return False


def _run(suite: Suite, run: Run, tally: _Tally) -> None:
    tally.number += 1
    with claimed(suite, run) as descriptor:
        if descriptor is None:
            tally.left.append(run.label)
            return
        if is_done(suite, run):  # by another process, since the suite began
            return
        if load_recipe(suite.recipe_file, run.overrides).sha != run.recipe.sha:
            raise UserError(
                f"{suite.recipe_file} has changed since the suite began; start it again, and what "
                "the change leaves valid stays done"
            )
        tally.announce(run)
        began = time.monotonic()
        code = _launch(command(suite, run), descriptor)
    if code:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        tally.failed.append(f"{run.label} ({how})")
    elif not is_done(suite, run):
        tally.failed.append(f"{run.label} (left no record; delete {run.folder})")
    else:
        tally.seconds.append(time.monotonic() - began)


def _launch(command: Sequence[str], descriptor: int) -> int:
    """The exit code of a process, in which SIGTERM asks a run to stop after its step. It is no part
    of the terminal's group, so that one Ctrl-C reaches it once, through here.

    Raises KeyboardInterrupt once it has ended, where it was to stop.
    """
    process = subprocess.Popen(command, process_group=0, pass_fds=[descriptor])
    asked = False
    while True:
        try:
            code = process.wait()
            break
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT if asked else signal.SIGTERM)
            asked = True
    if asked or code == INTERRUPTED:
        raise KeyboardInterrupt
    return code


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{max(minutes, 1)} min"
