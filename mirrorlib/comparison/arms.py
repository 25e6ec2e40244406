"""Arms compared seed by seed: pure data, from which every table, figure and page is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mirrorlib.comparison.outcomes import PRIMARY, compared
from mirrorlib.comparison.statistics import (
    FLIPPED_AT_MOST,
    MINIMUM_SEEDS,
    Summary,
    holm,
    paired,
    sign_flip_test,
    summarise,
    t_test,
)
from mirrorlib.errors import UserError, suggestion
from mirrorlib.records import Record

BASELINE = "none"
SHARED = (
    "source", "data", "batch", "train.steps", "train.max_steps", "train.accumulation",
    "train.precision", "evaluation",
)  # fmt: skip
"""Settings that arms must have in common for their difference to be that of the arms."""


@dataclass(frozen=True)
class PValues:
    """Two-sided p-values of a primary outcome; NaN where there is none. `..._holm`: adjusted for
    the number of primary outcomes."""

    arm: str
    metric: str
    t: float
    t_holm: float
    flips: float
    flips_holm: float


@dataclass(frozen=True)
class Comparison:
    """records: one for each arm and seed. summaries: metric -> arm -> over its seeds.
    differences: metric -> arm -> arm minus baseline, paired by seed, for what compares arms.
    tests: of the question asked in advance, else none. notes: what a reader must know."""

    name: str
    baseline: str
    arms: tuple[str, ...]
    records: tuple[Record, ...]
    summaries: Mapping[str, Mapping[str, Summary]]
    differences: Mapping[str, Mapping[str, Summary]]
    tests: tuple[PValues, ...] = ()
    notes: tuple[str, ...] = field(default_factory=tuple)

    def seeds(self, arm: str) -> list[int]:
        return [record.seed for record in self.records if record.arm == arm]

    @property
    def fewest_seeds(self) -> int:
        return min(len(self.seeds(arm)) for arm in self.arms)


def compare(
    records: Iterable[Record],
    baseline: str | None = None,
    *,
    name: str = "comparison",
    arms: Sequence[str] = (),
    question: str | None = None,
    notes: Sequence[str] = (),
) -> Comparison:
    """Means and 95 % t-intervals over seeds, and differences from the baseline, paired by seed.

    baseline: an arm; None: `none`, or the only arm there is. arms: the order to show them in, the
    rest follows by name. question: the arm whose difference from the baseline was asked in advance;
    only it has p-values. notes: what is already known of the records. Raises UserError where there
    are no records, no such baseline, two different records of one arm and seed, or an arm that
    mixes recipes.
    """
    chosen, repeated = _one_each(records)
    present = {record.arm for record in chosen}
    ordered = [arm for arm in arms if arm in present]
    ordered += sorted(present.difference(ordered))
    baseline = _baseline(baseline, ordered)
    ordered.sort(key=lambda arm: arm != baseline)
    values = _values(chosen)
    summaries = {
        metric: {arm: summarise(by_arm[arm]) for arm in ordered if arm in by_arm}
        for metric, by_arm in values.items()
    }
    differences = {
        metric: {
            arm: paired(found.values, by_arm[baseline].values)
            for arm, found in by_arm.items()
            if arm != baseline
        }
        for metric, by_arm in summaries.items()
        if baseline in by_arm and compared(metric)
    }
    _refuse_mixtures(chosen)
    told = [
        *notes, *repeated, *_unequal(chosen, ordered), *_versions(chosen),
        *_lost(values, summaries), *_unpaired(chosen, ordered, baseline),
    ]  # fmt: skip
    tests = _tests(differences, question) if question in ordered[1:] else ()
    return Comparison(
        name, baseline, tuple(ordered), tuple(chosen), summaries, differences, tests, tuple(told)
    )


def differing_keys(records: Sequence[Record], arms: Sequence[str]) -> dict[str, dict[str, str]]:
    """The recipe's keys whose values differ between arms: key -> arm -> value, `–` where an arm
    has no such key. An arm has one recipe but for the seed."""
    recipes = {record.arm: record.recipe for record in reversed(records)}
    keys = sorted({key for recipe in recipes.values() for key in recipe} - {"seed"})
    by_key = {key: {arm: str(recipes[arm].get(key, "–")) for arm in arms} for key in keys}
    return {key: by_arm for key, by_arm in by_key.items() if len(set(by_arm.values())) > 1}


def _one_each(records: Iterable[Record]) -> tuple[list[Record], list[str]]:
    """The newest record of each arm and seed, in their order, and what was left out."""
    chosen: dict[tuple[str, int], Record] = {}
    repeated = set()
    for record in sorted(records, key=lambda record: record.finished):
        key = record.arm, record.seed
        before = chosen.get(key)
        if before is not None:
            if before.recipe_sha != record.recipe_sha:
                raise UserError(
                    f"arm {record.arm!r}, seed {record.seed}: two records of different recipes "
                    f"({before.recipe_sha} and {record.recipe_sha}{_first_change(before, record)});"
                    " delete or leave out one of them"
                )
            repeated.add(key)
        chosen[key] = record
    if not chosen:
        raise UserError("no records: nothing to compare; run a suite first, or name other sources")
    notes = [
        f"{arm}, seed {seed}: run more than once with one recipe; the newest counts"
        for arm, seed in sorted(repeated)
    ]
    return [chosen[key] for key in sorted(chosen)], notes


def _first_change(one: Record, other: Record) -> str:
    changed = _changed(one, other)
    if not changed:
        return ""
    key = changed[0]
    return f": {key} is {one.recipe[key]} and {other.recipe[key]}"


def _changed(one: Record, other: Record) -> list[str]:
    """Keys that both recipes have with different values, but for the seed. (Recipes of another
    version may have further options; those from MLflow are text.)"""
    keys = (one.recipe.keys() & other.recipe.keys()) - {"seed"}
    return sorted(key for key in keys if str(one.recipe[key]) != str(other.recipe[key]))


def _baseline(wanted: str | None, arms: Sequence[str]) -> str:
    if wanted is None:
        wanted = arms[0] if len(arms) == 1 else BASELINE
    if wanted not in arms:
        raise UserError(
            f"no arm is called {wanted!r}{suggestion(wanted, arms)}; choose --baseline among: "
            + ", ".join(arms)
        )
    return wanted


def _values(records: Sequence[Record]) -> dict[str, dict[str, dict[int, float]]]:
    """metric -> arm -> seed -> value, as measured."""
    values: dict[str, dict[str, dict[int, float]]] = {}
    for record in records:
        for metric, value in record.metrics.items():
            values.setdefault(metric, {}).setdefault(record.arm, {})[record.seed] = value
    return dict(sorted(values.items()))


def _refuse_mixtures(records: Sequence[Record]) -> None:
    first: dict[str, Record] = {}
    for record in records:
        other = first.setdefault(record.arm, record)
        changed = _changed(other, record)
        if changed:
            key = changed[0]
            raise UserError(
                f"arm {record.arm!r} mixes recipes: {key} is {other.recipe[key]} in seed "
                f"{other.seed} and {record.recipe[key]} in seed {record.seed}; leave out the "
                "records of one, or name them apart (tracking.arm)"
            )


def _unequal(records: Sequence[Record], arms: Sequence[str]) -> list[str]:
    keys = [
        key
        for key in differing_keys(records, arms)
        if any(key == shared or key.startswith(f"{shared}.") for shared in SHARED)
    ]
    if not keys:
        return []
    return [f"the arms differ in what they should share: {', '.join(keys)}"]


def _versions(records: Sequence[Record]) -> list[str]:
    found: dict[str, set[str]] = {}
    for record in records:
        if record.commit is not None:
            found.setdefault("the code (commits)", set()).add(record.commit[:7])
        for name, version in {**record.libraries, **record.versions}.items():
            found.setdefault(name, set()).add(version)
    return [
        f"the records were made with several versions of {name}: {', '.join(sorted(versions))}"
        for name, versions in sorted(found.items())
        if len(versions) > 1
    ]


def _lost(
    values: Mapping[str, Mapping[str, Mapping[int, float]]],
    summaries: Mapping[str, Mapping[str, Summary]],
) -> list[str]:
    """Values that are no number; what is left is then a selection."""
    notes = []
    for metric, by_arm in values.items():
        for arm, measured in by_arm.items():
            lost = sorted(measured.keys() - summaries[metric][arm].values.keys())
            if lost:
                seeds = ", ".join(map(str, lost))
                notes.append(f"{metric} of {arm} is no number in seed {seeds}: left out there")
    return notes


def _unpaired(records: Sequence[Record], arms: Sequence[str], baseline: str) -> list[str]:
    seeds = {arm: {record.seed for record in records if record.arm == arm} for arm in arms}
    notes = []
    for arm in arms:
        alone = sorted(seeds[arm] - seeds[baseline])
        if alone:
            listed = ", ".join(map(str, alone))
            notes.append(f"{arm}: seed {listed} has no partner in {baseline}; no difference there")
    return notes


def _tests(differences: Mapping[str, Mapping[str, Summary]], arm: str) -> tuple[PValues, ...]:
    """Of the primary outcomes of the one arm. An outcome without enough pairs counts as a test
    without a result."""
    found = [differences.get(metric, {}).get(arm) for metric in PRIMARY]
    points = [list(d.values.values()) if d and d.n >= MINIMUM_SEEDS else [] for d in found]
    t = [t_test(p) for p in points]
    flips = [sign_flip_test(p) if 0 < len(p) <= FLIPPED_AT_MOST else float("nan") for p in points]
    rows = zip(PRIMARY, t, holm(t), flips, holm(flips), strict=True)
    return tuple(PValues(arm, *row) for row in rows)
