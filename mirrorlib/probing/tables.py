"""The tables of a probe, Markdown that is read as well in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mirrorlib.probing.measure import REAL, Similarity, Variant
from mirrorlib.probing.names import CONTROLS
from mirrorlib.probing.readout import FEWEST_SEEDS, READS, WAYS, Read, Recall
from mirrorlib.probing.success import Split

ARROWS = {"u2e": "see -> do", "e2u": "do -> see"}
ASKED: Mapping[Read, str] = {
    "instruction": "instruction",
    "episode": "scene",
    "within": "scene within instruction",
}
MEASURES = {"cka": "CKA, debiased", "mutual_knn": "mutual kNN", "cknna": "CKNNA"}
SCORES = {"hit_at_1": "hit@1", "reciprocal_rank": "reciprocal rank"}


def tables(variant: Variant, seeds: int, permutations: int) -> str:
    """All tables of a variant."""
    parts = [
        "Recall@1 of held-out episodes, % [95 % of instructions drawn anew]",
        _recalls(variant, 1, _with_interval),
        "The same, 95 % quantile of what shuffled partners score, %" if permutations else "",
        _recalls(variant, 1, lambda r: _percent(r.null_95)) if permutations else "",
        f"Recall@1, 95 % t-interval over {seeds} seeds of the maps, %"
        if seeds >= FEWEST_SEEDS
        else f"{seeds} seeds of the maps: too few for an interval over them.",
        _recalls(variant, 1, _over_seeds) if seeds >= FEWEST_SEEDS else "",
        "Recall@5, %",
        _recalls(variant, 5, lambda r: _percent(r.value)),
        "Raw held-out u and e" + (" (95 % quantile for shuffled partners)" if permutations else ""),
        _similarities(variant.similarities),
        _successes(variant.success),
        "\n".join(f"{name} left out: {reason}." for name, reason in variant.left_out.items()),
        "\n".join(
            f"`{name}`: {CONTROLS[name]}."
            for name in CONTROLS
            if any(row.control == name for row in variant.rows)
        ),
    ]
    return "\n\n".join(part for part in parts if part)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns line up."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def shown(cells: Sequence[str]) -> str:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        return f"| {' | '.join(padded)} |"

    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
    return "\n".join([shown(header), rule, *map(shown, rows)])


def _recalls(variant: Variant, k: int, show: Callable[[Recall], str]) -> str:
    columns = [(read, f"recall_at_{k}_{way}") for read in READS for way in WAYS]
    header = ["u, e", "maps fitted by"]
    header += [f"{ASKED[read]}, {ARROWS[name[-3:]]}" for read, name in columns]
    rows, chances = [], [""] * len(columns)
    for row in variant.rows:
        cells = []
        for i, (read, name) in enumerate(columns):
            recall = row.recalls[read].get(name)
            cells.append("–" if recall is None else show(recall))
            if recall is not None:
                chances[i] = _percent(recall.chance)
        rows.append([_name(row.control), row.level, *cells])
    return markdown(header, [*rows, ["chance", "", *chances]])


def _similarities(found: Mapping[str, Mapping[str, Similarity]]) -> str:
    rows = [
        [_name(control), *(_with_null(measures[name]) for name in MEASURES)]
        for control, measures in found.items()
    ]
    return markdown(["u, e", *MEASURES.values()], rows)


def _successes(found: Mapping[str, Mapping[str, Mapping[str, Split]]]) -> str:
    if not found:
        return ""
    rows = []
    for level, questions in found.items():
        for read in READS:
            for name, split in questions[read].items():
                rows.append([level, ASKED[read], SCORES[name], *_split(split)])
    header = ["maps fitted by", "asked", "score", "solved - failed [95 %]", "if shuffled, 95 %"]
    header += ["instructions, scenes", "over all, confounded by difficulty"]
    title = (
        "Does it go with success? In points: within instructions that have solved and failed "
        "scenes. Exploratory: an interval that holds 0 shows nothing."
    )
    return f"{title}\n\n{markdown(header, rows)}"


def _split(split: Split) -> list[str]:
    plain = "–" if split.unstratified is None else f"{100 * split.unstratified:+.1f}"
    plain += f" ({split.all_solved} solved, {split.all_failed} failed)"
    if split.difference is None:
        return ["no instruction has both", "", "0", plain]
    shown = f"{100 * split.difference:+.1f}"
    return [
        shown if split.interval is None else f"{shown} {_points(split.interval)}",
        "–" if split.null_95 is None else _points(split.null_95),
        f"{split.instructions}, {split.solved} + {split.failed}",
        plain,
    ]


def _name(control: str) -> str:
    return control if control == REAL else f"`{control}`"


def _with_interval(recall: Recall) -> str:
    shown = _percent(recall.value)
    if recall.interval is not None:
        shown += " [{}, {}]".format(*map(_percent, recall.interval))
    return shown


def _over_seeds(recall: Recall) -> str:
    if recall.over_seeds is None:
        return "–"
    low, high = recall.over_seeds
    return f"{_percent(recall.value)} ± {_percent((high - low) / 2)}"


def _with_null(similarity: Similarity) -> str:
    shown = f"{similarity.value:.3f}"
    return shown if similarity.null_95 is None else f"{shown} ({similarity.null_95:.3f})"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _points(interval: tuple[float, float]) -> str:
    return "[{:+.1f}, {:+.1f}]".format(*(100 * value for value in interval))
