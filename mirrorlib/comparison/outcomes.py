"""The measures that a comparison shows, and which of them compare arms at all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

PRIMARY = ("eval/success_rate", "eval/recognition_accuracy")
"""The outcomes of the confirmatory question, fixed before any run."""
TASK = "eval/success_rate/"
NOT_COMPARED = ("eval/recall_at_", "eval/alignment/", "eval/mutual_information_bound")
"""Measures of the space that an objective shaped: an arm without projectors has none, and an
objective blind to rotation is not made for them. Fresh probes compare the arms."""
SPACES = {
    "observer": "u",
    "executor": "e",
    "alignment/u": "projected u",
    "alignment/e": "projected e",
}
CURVES = (
    ("train/loss", "loss, the sum of an arm's own terms"),
    ("train/observer/loss", "observer's loss"),
    ("train/executor/loss", "executor's loss"),
    ("train/alignment/loss", "alignment loss, unweighted"),
    ("train/observer/effective_rank", "effective rank of u, in batches"),
    ("train/executor/effective_rank", "effective rank of e, in batches"),
)


@dataclass(frozen=True)
class Outcome:
    """chance: the metric that says what blind guessing scores. share: shown in per cent, its
    differences in points."""

    metric: str
    title: str
    chance: str | None = None
    share: bool = True

    @property
    def unit(self) -> str:
        return "%" if self.share else ""

    @property
    def factor(self) -> int:
        return 100 if self.share else 1


def compared(metric: str) -> bool:
    """Whether differences of this metric mean that one arm does better."""
    return (
        metric.startswith("eval/")
        and "_chance" not in metric
        and not metric.startswith(NOT_COMPARED)
    )


def outcomes() -> list[Outcome]:
    """In the order in which they are shown; the first two are the primary ones."""
    success, recognition = PRIMARY
    found = [
        Outcome(success, "success"),
        Outcome(recognition, "recognition", f"{recognition}_chance"),
        Outcome(
            f"{recognition}_within_task",
            "recognition within the task",
            f"{recognition}_within_task_chance",
        ),
    ]
    for prefix, title in (("probe_recall", "Recall@1 fresh"), ("recall", "Recall@1 trained")):
        for suffix, level in (("_episode", "scene"), ("", "instruction")):
            for way, arrow in (("u2e", "see -> do"), ("e2u", "do -> see")):
                found.append(
                    Outcome(
                        f"eval/{prefix}_at_1_{way}{suffix}",
                        f"{title}, {arrow}, same {level}",
                        f"eval/{prefix}_at_1_chance{suffix}",
                    )
                )
    return found + [
        Outcome(f"eval/{space}/effective_rank", f"effective rank of {title}", share=False)
        for space, title in SPACES.items()
    ]


def task_outcomes(metrics: Iterable[str]) -> list[Outcome]:
    """Success of each task."""
    return [Outcome(m, m.removeprefix(TASK)) for m in sorted(metrics) if m.startswith(TASK)]
