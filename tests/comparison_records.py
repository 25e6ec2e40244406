"""Records of runs that never ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mirrorlib.records import Record

ASKED = {"objective.temperature": 0.1, "pairing": "instruction", "train.weights.alignment": 0.5}
CHANCES = {"eval/recognition_accuracy_chance": 0.05}


def record(arm: str, seed: int, metrics: Mapping[str, float], **changes: Any) -> Record:
    defaults = {
        "suite": "objectives",
        "recipe_sha": f"{arm}-{seed}",
        "recipe": {"seed": seed, "objective.name": arm, "train.steps": 10} | ASKED,
        "versions": {"mirrorlib": "1.0"},
        "libraries": {"torch": "2.6"},
        "commit": "0123456789abcdef",
        "machine": "a machine",
        "finished": "2026-01-02T03:04:05+00:00",
    }
    return Record(arm=arm, seed=seed, metrics=dict(metrics), **(defaults | changes))


def suite(values: Mapping[str, Sequence[float]], **changes: Any) -> list[Record]:
    """A record for each arm and each of its success rates; seeds count from 0."""
    return [
        record(arm, seed, {"eval/success_rate": rate, **CHANCES}, **changes)
        for arm, rates in values.items()
        for seed, rate in enumerate(rates)
    ]
