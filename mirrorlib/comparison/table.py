"""Tables of a comparison, the same for terminal, Markdown and page."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mirrorlib.comparison.arms import Comparison, differing_keys
from mirrorlib.comparison.outcomes import Outcome, outcomes, task_outcomes
from mirrorlib.comparison.statistics import MINIMUM_SEEDS, Summary
from mirrorlib.records import Record

NOTHING = "–"
MARK = " *"


@dataclass(frozen=True)
class Cell:
    """marked: whether it is set apart: a difference whose interval excludes zero."""

    text: str
    marked: bool = False


@dataclass(frozen=True)
class Table:
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


def tables(comparison: Comparison) -> list[Table]:
    """The confirmatory test if there is one, every outcome, tasks, cost, settings."""
    shown = [o for o in outcomes() if o.metric in comparison.summaries]
    tasks = task_outcomes(comparison.summaries)
    found = [_tests(comparison)] if comparison.tests else []
    found += [_outcome(comparison, outcome, outcome.title) for outcome in shown]
    found += [_outcome(comparison, task, f"success, {task.title}") for task in tasks]
    found += [_cost(comparison), _settings(comparison)]
    return [table for table in found if table.rows]


def statements(comparison: Comparison) -> list[str]:
    """What holds for every table, then what a reader must know of these records."""
    lines = []
    most = max(len(comparison.seeds(arm)) for arm in comparison.arms)
    pairs = [d.n for by_arm in comparison.differences.values() for d in by_arm.values()]
    if comparison.fewest_seeds < MINIMUM_SEEDS:
        few = [a for a in comparison.arms if len(comparison.seeds(a)) < MINIMUM_SEEDS]
        counts = ", ".join(f"{arm} {_seeds(len(comparison.seeds(arm)))}" for arm in few)
        lines.append(
            f"{counts}: points only. An interval takes {MINIMUM_SEEDS} seeds; gaps between so few "
            "runs mean nothing"
        )
    if most >= MINIMUM_SEEDS:
        lines.append("[low, high]: 95 % t-interval over seeds")
    if any(n >= MINIMUM_SEEDS for n in pairs):
        lines.append(
            f"Differences are from {comparison.baseline}, paired by seed;{MARK} marks an interval "
            "that excludes zero"
        )
        lines.append(
            "P-values belong to the two primary outcomes, fixed in advance; all else is exploratory"
            " and uncorrected for the number of comparisons"
            if comparison.tests
            else "All differences are exploratory, uncorrected for the number of comparisons: about"
            " one in twenty intervals excludes zero where there is no effect"
        )
    return lines + list(comparison.notes)


def markdown(table: Table) -> str:
    """Read as well in a terminal. What a cell holds cannot end it."""
    cells = [[_escaped(text) for text in table.header]]
    cells += [[_escaped(c.text) + (MARK if c.marked else "") for c in row] for row in table.rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.header))]
    lines = [f"| {' | '.join(c.ljust(w) for c, w in zip(r, widths, strict=True))} |" for r in cells]
    lines.insert(1, f"|{'|'.join('-' * (width + 2) for width in widths)}|")
    return "\n".join([f"## {table.title}", "", *lines, *(["", table.note] if table.note else [])])


def summary(comparison: Comparison) -> str:
    """All tables as Markdown."""
    parts = [f"# {_escaped(comparison.name)}"]
    parts.append("\n".join(f"- {_escaped(line)}." for line in statements(comparison)))
    return "\n\n".join([*parts, *(markdown(table) for table in tables(comparison))]) + "\n"


def result(found: Summary | None, outcome: Outcome) -> Cell:
    """A mean with its interval, or the points."""
    return Cell(_shown(found, outcome, lambda value: number(value * outcome.factor)))


def difference(found: Summary | None, outcome: Outcome) -> Cell:
    """Marked where the interval excludes zero, and only there."""
    text = _shown(found, outcome, lambda value: number(value * outcome.factor, "+"))
    if found is not None and found.constant:
        text += ", the same in every seed: no noise to judge by"
    return Cell(text, found is not None and found.excludes_zero)


def number(value: float, sign: str = "") -> str:
    """One digit after the point; more where what is not zero would look like zero."""
    digits = 1
    if value != 0 and abs(value) < 0.05:
        digits = min(12, 1 - math.floor(math.log10(abs(value))))
    text = f"{value:{sign}.{digits}f}"
    return text if float(text) else "0.0"


def _shown(found: Summary | None, outcome: Outcome, shown: Callable[[float], str]) -> str:
    if found is None or found.n == 0:
        return NOTHING
    if found.low is None or found.high is None:
        return ", ".join(shown(value) for _, value in sorted(found.values.items()))
    low, high = (number(end * outcome.factor) for end in (found.low, found.high))
    return f"{shown(found.mean)} [{low}, {high}]"


def _outcome(comparison: Comparison, outcome: Outcome, title: str) -> Table:
    by_arm = comparison.summaries[outcome.metric]
    versus = comparison.differences.get(outcome.metric)
    most = max(found.n for found in by_arm.values())
    shown = "mean" if most >= MINIMUM_SEEDS else "each seed"
    header = ["arm", "seeds", f"{shown}, {outcome.unit}" if outcome.unit else shown]
    if versus:
        header += [f"minus {comparison.baseline}{', points' if outcome.share else ''}", "pairs"]
    rows = []
    for arm in comparison.arms:
        found = by_arm.get(arm)
        row = [Cell(arm), Cell(str(found.n if found else 0)), result(found, outcome)]
        if versus:
            gap = versus.get(arm)
            row += [difference(gap, outcome), Cell(str(gap.n) if gap else "")]
        rows.append(row)
    return Table(title, header, rows, _note(comparison, outcome))


def _note(comparison: Comparison, outcome: Outcome) -> str:
    lines = []
    chances = comparison.summaries.get(outcome.chance or "", {}).values()
    if levels := sorted({v for found in chances for v in found.values.values()}):
        ends = dict.fromkeys(number(100 * level) for level in (levels[0], levels[-1]))
        lines.append(f"Chance: {' to '.join(ends)} %.")
    counts = {found.n for found in comparison.summaries[outcome.metric].values()}
    few = sorted(count for count in counts if 0 < count < MINIMUM_SEEDS)
    if few:
        counted = " and ".join(map(_seeds, few))
        lines.append(f"{counted}: points only, in the order of the seeds.")
    if outcome.metric not in comparison.differences:
        lines.append("The space that training shaped: arms are not compared by it.")
    return " ".join(lines)


def _tests(comparison: Comparison) -> Table:
    titles = {outcome.metric: outcome for outcome in outcomes()}
    header = (
        "primary outcome", "pairs", f"minus {comparison.baseline}, points", "p, paired t",
        "p, Holm", "p, sign flips", "p, Holm",
    )  # fmt: skip
    rows = []
    for test in comparison.tests:
        gap = comparison.differences.get(test.metric, {}).get(test.arm)
        outcome = titles[test.metric]
        count = str(gap.n) if gap else "0"
        shown = [Cell(p_value(p)) for p in (test.t, test.t_holm, test.flips, test.flips_holm)]
        rows.append([Cell(outcome.title), Cell(count), difference(gap, outcome), *shown])
    title = f"fixed in advance: {comparison.tests[0].arm} against {comparison.baseline}"
    note = (
        "Two-sided; Holm's adjustment is for the two outcomes. Sign flips are exact and can go no "
        "lower than 2 / 2^pairs. The number of seeds is fixed in advance, too: before the last one "
        "this is a look on the way, and no ground to stop."
    )
    return Table(title, header, rows, note)


def p_value(p: float) -> str:
    if math.isnan(p):
        return NOTHING
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def _cost(comparison: Comparison) -> Table:
    """A row for each arm and machine; there are no differences, for a machine is seldom alone."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in comparison.records:
        groups.setdefault((record.arm, record.machine), []).append(record)
    rows = []
    for arm in comparison.arms:
        for (of, machine), records in groups.items():
            if of == arm:
                seconds, memory = (
                    _range([r.metrics[name] * factor for r in records if name in r.metrics], form)
                    for name, factor, form in (
                        ("cost/train_seconds", 1.0, ".0f"),
                        ("cost/train_peak_bytes", 2.0**-30, ".1f"),
                    )
                )
                cells = (arm, str(len(records)), seconds, memory, machine)
                rows.append([Cell(text) for text in cells])
    machines = {record.machine for record in comparison.records}
    note = (
        "Several machines: the times of arms cannot be compared."
        if len(machines) > 1
        else "The machine is not known: the times of arms cannot be compared."
        if machines == {"unknown"}
        else "One machine; what else it did meanwhile is not known."
    )
    header = ("arm", "seeds", "training, s", "peak memory, GiB", "machine")
    return Table("cost: mean (lowest to highest)", header, rows, note)


def _range(values: Sequence[float], form: str) -> str:
    if not values:
        return NOTHING
    mean, low, high = sum(values) / len(values), min(values), max(values)
    return f"{mean:{form}}" + (f" ({low:{form}} to {high:{form}})" if len(values) > 1 else "")


def _settings(comparison: Comparison) -> Table:
    keys = differing_keys(comparison.records, comparison.arms)
    rows = [
        [Cell(key), *(Cell(by_arm[arm]) for arm in comparison.arms)] for key, by_arm in keys.items()
    ]
    return Table("settings that differ", ("key", *comparison.arms), rows)


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


def _escaped(text: str) -> str:
    """Within a cell of Markdown; what would open a tag does not."""
    return re.sub(r"\||<(?=\S)", lambda sign: f"\\{sign[0]}", " ".join(text.split()))
