"""The result of a run: metrics, what they cost, and a table that a person understands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mirrorlib.evaluation.statistics import wilson
from mirrorlib.files import write_whole
from mirrorlib.monitor import Phase

TASK = "eval/success_rate/"
SPACES = {
    "observer": "u",
    "executor": "e",
    "alignment/u": "projected u",
    "alignment/e": "projected e",
}


@dataclass
class Report:
    """metrics: names as MLflow has them. counts: metric -> (hits, trials), for intervals.
    phases: what each part of the run cost. facts: what else a reader must know."""

    name: str
    folder: Path
    metrics: dict[str, float] = field(default_factory=dict)
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    phases: dict[str, Phase] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def add_share(self, name: str, hits: int, trials: int) -> None:
        """A proportion, kept with its counts."""
        self.metrics[name] = hits / trials
        self.counts[name] = (hits, trials)

    def write(self) -> Path:
        """Writes `report.json` into the run folder."""
        path = self.folder / "report.json"
        content = {
            "name": self.name,
            "metrics": self.metrics,
            "counts": self.counts,
            "wilson_95": {name: wilson(*counts) for name, counts in self.counts.items()},
            "phases": {name: vars(phase) for name, phase in self.phases.items()},
            "facts": self.facts,
        }
        write_whole(path, json.dumps(content, indent=2))
        return path

    @classmethod
    def read(cls, folder: Path) -> Report:
        """The report that `write` left in a folder."""
        content = json.loads((folder / "report.json").read_text())
        phases = {name: Phase(**phase) for name, phase in content["phases"].items()}
        counts = {name: (hits, trials) for name, (hits, trials) in content["counts"].items()}
        return cls(content["name"], folder, content["metrics"], counts, phases, content["facts"])

    def table(self) -> str:
        """Markdown that is read as well in a terminal."""
        lines = [f"# {self.name}", "", *self._results()]
        costs = [
            (name, f"{p.seconds:.0f} s", f"{p.memory / 2**30:.1f} GiB", _gpu(p))
            for name, p in self.phases.items()
        ]
        total = sum(p.seconds for p in self.phases.values())
        costs.append(("together", f"{total:.0f} s", "", ""))
        lines += ["", *_rows(("phase", "wall time", "peak memory", "GPU memory"), costs), ""]
        lines += [f"{name}: {value}" for name, value in self.facts.items()]
        return "\n".join(lines)

    def results(self) -> str:
        """What was measured, without what it cost, in Markdown."""
        return "\n".join(self._results())

    def _results(self) -> list[str]:
        return _rows(("held-out measure", "result", "95 % interval", "chance"), self._measures())

    def _measures(self) -> list[tuple[str, str, str, str]]:
        m = self.metrics
        rows = []
        for name, title in (
            ("eval/recognition_accuracy", "recognition, all instructions"),
            ("eval/recognition_accuracy_within_task", "recognition within the task"),
            ("eval/success_rate", "success, all tasks"),
            *((n, f"success, {n.removeprefix(TASK)}") for n in m if n.startswith(TASK)),
        ):
            if name in m:
                chance = m.get(f"{name}_chance")
                shown = "" if chance is None else _percent(chance)
                rows.append((title, _percent(m[name]), self._interval(name), shown))
        if lost := m.get("eval/rollouts_lost"):
            rows.append(("lost scenes, counted as not solved", f"{lost:.0f}", "", ""))
        for prefix, title in (("recall", "Recall@1 trained"), ("probe_recall", "Recall@1 fresh")):
            for suffix, level in (("", "instruction"), ("_episode", "scene")):
                for way, arrow in (("u2e", "see -> do"), ("e2u", "do -> see")):
                    name = f"eval/{prefix}_at_1_{way}{suffix}"
                    if name in m:
                        chance = m[f"eval/{prefix}_at_1_chance{suffix}"]
                        label = f"{title}, {arrow}, same {level}"
                        rows.append((label, _percent(m[name]), "", _percent(chance)))
        for space, title in SPACES.items():
            if (name := f"eval/{space}/effective_rank") in m:
                result = f"{m[name]:.1f}, {m[f'eval/{space}/scale']:.3f}"
                rows.append((f"effective rank and scale, {title}", result, "", ""))
        return rows

    def _interval(self, name: str) -> str:
        if name not in self.counts:
            return ""
        low, high = wilson(*self.counts[name])
        hits, trials = self.counts[name]
        return f"{_percent(low)} to {_percent(high)} ({hits}/{trials})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _gpu(phase: Phase) -> str:
    return f"{phase.gpu_memory / 2**30:.1f} GiB" if phase.gpu_memory else ""


def _rows(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    used = [i for i in range(len(header)) if any(row[i] for row in rows)]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in used]

    def line(cells: tuple[str, ...]) -> str:
        shown = (cells[i].ljust(width) for i, width in zip(used, widths, strict=True))
        return f"| {' | '.join(shown)} |"

    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
    return [line(header), rule, *(line(row) for row in rows)]
