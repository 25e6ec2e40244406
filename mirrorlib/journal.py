"""Metrics as lines of JSON: kept on the disk, and listed until MLflow has them."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mirrorlib.files import write_whole, writing

Row = dict[str, Any]
METRICS_SENT = 500
"""In one request; MLflow takes at most 1,000, and a row is never split."""


class Journal:
    """A file of rows `{"step": ..., "time": ..., NAME: value}`, open at its end.

    Of what an earlier process left there the rows that `keep` names stay, and wait to be sent with
    the others; a line that it wrote in part goes. `last_step`: of the last row, 0 without one.
    Raises UserError where the file cannot be written.
    """

    def __init__(self, path: Path, keep: Callable[[Row], bool]) -> None:
        self.path = path
        with writing(path):
            self.waiting = _whole_rows(path, keep)
            write_whole(path, "".join(json.dumps(row) + "\n" for row in self.waiting))
            self._file = path.open("a")
        self.last_step = max((int(row["step"]) for row in self.waiting), default=0)

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        row = {"step": step, "time": int(time.time() * 1000), **metrics}
        with writing(self.path):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        self.waiting.append(row)
        self.last_step = step

    def next(self) -> list[Row]:
        """The oldest rows that wait, as many as fit into one request, at least one if any wait."""
        sizes = itertools.accumulate(len(row) for row in self.waiting)
        return self.waiting[: max(1, sum(size <= METRICS_SENT for size in sizes))]

    def sent(self, count: int) -> None:
        """The oldest `count` rows wait no longer."""
        del self.waiting[:count]

    def close(self) -> None:
        self._file.close()


def _whole_rows(path: Path, keep: Callable[[Row], bool]) -> list[Row]:
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if keep(row):
                rows.append(row)
    return rows
