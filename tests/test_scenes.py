"""Which scenes are rolled out, and what the report says of them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fakes import FakeExecutor, FakeSource
from faulty_simulators import start_quickly

from mirrorlib.errors import RecipeError
from mirrorlib.evaluation import simulating
from mirrorlib.evaluation.closed_loop import roll_out
from mirrorlib.evaluation.evaluate import Evaluation, build_simulator, report_success
from mirrorlib.evaluation.rollouts import Rollout, Scene, read_outcomes, write_outcomes
from mirrorlib.interfaces import EpisodeKey, Observations
from mirrorlib.recipe import load_recipe
from mirrorlib.registry import Registry, build_section
from mirrorlib.reporting.report import Report

PLAIN = {
    "source": {"name": "scenes"}, "observer": {"name": "eyes"}, "executor": {"name": "hands"},
    "objective": {"name": "pull"}, "train": {"steps": 5},
}  # fmt: skip


class Shuffled(FakeSource):
    """Variations one in the other's midst, as RLBench's test sets have them."""

    def keys(self, split):
        return sorted(super().keys(split), key=lambda key: (key.task, key.index))


def chosen(scenes: str | None, count: int) -> list[Scene]:
    source = Shuffled(4)
    missing = EpisodeKey("val", "lift", 1, 0), EpisodeKey("val", "push", 0, 2)
    recorded = [key for key in source.keys("val") if key not in missing]
    settings = SimpleNamespace(scenes=scenes, split="val", rollouts=count)
    cache = SimpleNamespace(
        source=source, episodes=lambda split: [SimpleNamespace(name=str(key)) for key in recorded]
    )
    made: Any = SimpleNamespace(evaluation=settings), cache
    return Evaluation(None, None, *made, None, None).scenes()


def test_scenes_are_those_that_the_recipe_says():
    plain = [Scene(t, v, "val", i) for t in ("lift", "push") for v in (0, 1) for i in (0, 1)]
    assert chosen(None, 2) == chosen("seeds", 2) == plain
    assert chosen("demonstrations", 2) == [
        Scene("lift", 0, "val", 0), Scene("lift", 0, "val", 1), Scene("lift", 1, "val", 1),
        Scene("lift", 1, "val", 2), Scene("push", 0, "val", 0), Scene("push", 1, "val", 0),
        Scene("push", 0, "val", 1), Scene("push", 1, "val", 1),
    ]  # fmt: skip
    assert len(chosen("demonstrations", 9)) == 16 - 2


def test_the_report_tells_errors_by_kind_and_what_was_lost(tmp_path: Path):
    rollouts = [
        Rollout(Scene("lift", 0, "test", 0), "lift", True, 4, 3, error_kinds={"planning": 2}),
        Rollout(Scene("lift", 0, "test", 1), "lift", False, 9, 2, error_kinds={"ik": 1}),
        Rollout(Scene("push", 0, "test", 0), "push", True, 1, 1, error_kinds={"planning": 1},
                retried=True),
        Rollout(Scene("push", 0, "test", 1), "", False, 0, 0, retried=True, lost="went away"),
    ]  # fmt: skip
    report = Report("run", tmp_path)
    report_success(rollouts, report)
    assert report.metrics == {
        "eval/success_rate": 0.5,
        "eval/success_rate/lift": 0.5,
        "eval/success_rate/push": 0.5,
        "eval/rollout_motion_errors": 6,
        "eval/rollout_errors/ik": 1,
        "eval/rollout_errors/planning": 3,
        "eval/rollouts_retried": 2,
        "eval/rollouts_lost": 1,
    }
    assert report.counts["eval/success_rate"] == (2, 4)
    cells = [[c.strip() for c in line.split("|")] for line in report.table().splitlines()]
    assert ["", "lost scenes, counted as not solved", "1"] in [row[:3] for row in cells]
    rows = json.loads((tmp_path / "rollouts.json").read_text())
    assert [(row["errors"], row["error_kinds"]) for row in rows] == [
        (3, {"planning": 2}), (2, {"ik": 1}), (1, {"planning": 1}), (0, {}),
    ]  # fmt: skip
    assert [(row["retried"], row["lost"]) for row in rows] == [
        (False, None), (False, None), (True, None), (True, "went away"),
    ]  # fmt: skip


def test_a_lost_scene_is_neither_solved_nor_failed_by_the_policy(tmp_path: Path):
    scenes = [Scene("lift", 0, "test", index) for index in range(3)]
    solved, failed, lost = (
        Rollout(scene, "lift", not i, 1, 0, lost="went away" if i == 2 else None)
        for i, scene in enumerate(scenes)
    )
    write_outcomes([solved, failed, lost], tmp_path)
    assert read_outcomes(tmp_path) == {scenes[0]: True, scenes[1]: False}


def test_without_losses_the_table_has_no_line_of_them(tmp_path: Path):
    report = Report("run", tmp_path)
    report_success([Rollout(Scene("lift", 0, "test", 0), "lift", True, 4, 0)], report)
    assert "lost" not in report.table()
    assert report.metrics["eval/rollouts_lost"] == 0


def test_only_what_decides_a_number_makes_another_recipe(registry: Registry):
    def sha(*overrides: str) -> str:
        return load_recipe(PLAIN, overrides, registry=registry).sha

    assert sha() == sha("evaluation.timeout=60", "evaluation.scenes=null")
    assert sha() != sha("evaluation.scenes=demonstrations")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("evaluation.timeout=0", "evaluation.timeout: must be greater than 0, not 0"),
        ("evaluation.timeout=.inf", "evaluation.timeout: must be a finite number, not inf"),
        (
            "evaluation.scenes=demonstration",
            "evaluation.scenes: must be 'seeds' or 'demonstrations', not 'demonstration'; "
            "did you mean 'demonstrations'?",
        ),
    ],
)
def test_mistakes_are_one_line(registry: Registry, override: str, told: str):
    with pytest.raises(RecipeError) as raised:
        load_recipe(PLAIN, [override], registry=registry)
    assert raised.value.lines == [f"override {override}: {told}"]


class Looking(FakeExecutor):
    """Goes where the first picture's colours send it."""

    def act(self, observations: Observations, instructions):
        colour = observations.rgb[:, 0].double().mean((2, 3)) / 255
        actions = torch.zeros(len(observations), 9, dtype=torch.float64)
        actions[:, :7] = observations.proprioception[:, :7].double()
        actions[:, :3] += 0.3 * (colour - 0.5)
        actions[:, 7] = (colour[:, 0] > colour[:, 1]).double()
        return actions.float()


def test_restored_scenes_of_the_tabletop_are_those_of_their_seeds(
    monkeypatch: pytest.MonkeyPatch,
):
    pytest.importorskip("mirrorlib_tabletop")
    monkeypatch.setattr(simulating, "PROCESSES", simulating.PROCESSES)
    start_quickly()
    recipe = load_recipe(
        Path(__file__).parents[1] / "recipes" / "infonce.yaml",
        [
            "source={name: tabletop, tasks: {push_buttons: [0], turn_tap: [1]}, train: 1, test: 2,"
            " image_size: 32, cameras: [front]}",
            "evaluation.simulator={name: tabletop, image_size: 32, cameras: [front]}",
        ],
    )
    source = build_section("source", recipe.source)
    scenes = [Scene("push_buttons", 0, "test", 1), Scene("turn_tap", 1, "test", 0)]
    by_seed, restored = (
        roll_out(
            Looking(),
            scenes,
            partial(build_simulator, recipe.evaluation.simulator, "front"),
            cameras=("front",),
            max_actions=2,
            workers=1,
            device=torch.device("cpu"),
            film=set(scenes),
            demonstrations=demonstrations,
            progress=False,
        )
        for demonstrations in (None, source)
    )
    for one, other in zip(by_seed, restored, strict=True):
        assert len(one.frames) > 2 and np.ptp(one.frames) > 0
        assert np.array_equal(one.frames, other.frames)
        assert (one.scene, one.instruction, one.success, one.actions, one.errors) == (
            other.scene, other.instruction, other.success, other.actions, other.errors,
        )  # fmt: skip
    assert not np.array_equal(by_seed[0].frames[0], by_seed[1].frames[0])
