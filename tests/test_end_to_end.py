"""The whole path on the real plugins, at the smallest size: recipe to report, alone and in two
processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_run import RECIPES, SMALL, Finished, command, environment, launch

from mirrorlib import assembly
from mirrorlib.errors import UserError
from mirrorlib.interfaces import DataProperties
from mirrorlib.recipe import load_recipe
from mirrorlib.training.checkpoint import step_of

pytest.importorskip("mirrorlib_tabletop")

TEN_STEPS = ("train.steps=10", "train.accumulation=2")
PROPERTIES = DataProperties(("front", "wrist"), 9, (0.15, -0.4, -0.02, 0.95, 0.4, 0.78))


@pytest.fixture(scope="module")
def alone(folder: Path) -> Finished:
    return launch(folder, "infonce", *TEN_STEPS)


def test_a_run_leaves_what_the_readme_promises(alone: Finished):
    metrics = alone.report["metrics"]
    for name in (
        "eval/success_rate",
        "eval/success_rate/push_buttons",
        "eval/recognition_accuracy",
        "eval/recognition_accuracy_within_task",
        "eval/recall_at_1_u2e",
        "eval/recall_at_1_e2u",
        "eval/probe_recall_at_1_u2e",
        "eval/probe_recall_at_1_e2u",
        "eval/mutual_information_bound",
        "cost/train_seconds",
    ):
        assert name in metrics
    assert alone.report["counts"]["eval/success_rate"][1] == 4
    assert [row["step"] for row in alone.losses] == list(range(1, 11))
    for part in ("recipe.yaml", "figures/confusion_matrix.png", "figures/success.png"):
        assert (alone.folder / part).stat().st_size > 0
    assert {p.stem for p in (alone.folder / "videos").iterdir()} == {"push_buttons", "turn_tap"}
    (checkpoint,) = (alone.folder / "checkpoints").iterdir()
    assert (checkpoint / "model.safetensors").exists()
    assert load_recipe(alone.folder / "recipe.yaml").train.steps == 10
    for shown in ("recognition, all instructions", "success, turn_tap", "chance", "peak memory"):
        assert shown in alone.printed


def test_the_run_is_in_mlflow(alone: Finished, folder: Path):
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("mirrorlib")
    runs = client.search_runs([experiment.experiment_id])
    (run,) = [r for r in runs if r.info.run_name == alone.folder.name]
    assert run.info.status == "FINISHED"
    assert run.data.tags["objective"] == "infonce"
    assert run.data.tags["pairing"] == "instruction"
    assert run.data.params["objective.temperature"] == "0.1"
    success = alone.report["metrics"]["eval/success_rate"]
    assert run.data.metrics["eval/success_rate"] == pytest.approx(success)
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 10
    kept = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert kept == {"recipe.yaml", "report.json", "figures", "videos", "model"}


def test_a_checkpoint_evaluates_as_it_did(alone: Finished, folder: Path):
    """The same numbers, to the bit, in a folder and an MLflow run of their own."""
    command = [sys.executable, "-m", "mirrorlib.cli", "evaluate"]
    done = subprocess.run(
        [*command, alone.folder, "evaluation.video_camera=null"],
        cwd=folder, env=environment(folder), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    evaluated = folder / "runs" / f"{alone.folder.name}-evaluated"
    metrics = json.loads((evaluated / "report.json").read_text())["metrics"]
    measured = {name for name in metrics if name.startswith("eval/")}
    assert "eval/alignment/u/effective_rank" in measured
    assert {name: metrics[name] for name in measured} == {
        name: value for name, value in alone.report["metrics"].items() if name.startswith("eval/")
    }
    assert not (evaluated / "videos").exists()
    for wrong in (folder, alone.folder / "checkpoints" / "step-000099"):
        done = subprocess.run(
            [*command, wrong], cwd=folder, env=environment(folder), capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 2
        assert re.fullmatch(r"mirrorlib: .*: no checkpoint, and no run that has one\n", done.stderr)


def test_two_processes_have_the_losses_of_one(alone: Finished, folder: Path):
    two = launch(folder, "infonce", *TEN_STEPS, processes=2)
    assert "recording" not in two.printed
    for one, other in zip(alone.losses, two.losses, strict=True):
        for name in ("loss", "observer/loss", "executor/loss", "alignment/loss"):
            assert other[f"train/{name}"] == pytest.approx(one[f"train/{name}"], rel=5e-3), (
                one["step"],
                name,
            )
    assert two.report["counts"]["eval/success_rate"][1] == 4


def test_the_baseline_sees_the_same_data_and_has_no_trained_space(alone: Finished, folder: Path):
    bare = launch(folder, "none", *TEN_STEPS, "train.max_steps=2")
    assert "eval/recall_at_1_u2e" not in bare.report["metrics"]
    assert "eval/probe_recall_at_1_u2e" in bare.report["metrics"]
    first, other = alone.losses[0], bare.losses[0]
    for name in ("observer/loss", "executor/loss"):
        assert other[f"train/{name}"] == pytest.approx(first[f"train/{name}"], rel=1e-5)


def test_encoders_start_identical_in_every_arm():
    def encoders(recipe: str, *overrides: str) -> dict[str, torch.Tensor]:
        joint = assembly.build_joint(load_recipe(RECIPES / recipe, overrides), PROPERTIES)
        state = joint.state_dict()
        return {n: t for n, t in state.items() if n.startswith(("observer", "executor"))}

    bare = encoders("none.yaml")
    other_sizes = ("comparison", "probe")
    for arm in sorted({path.stem for path in RECIPES.glob("*.yaml")}.difference(other_sizes)):
        aligned = encoders(f"{arm}.yaml")
        assert aligned.keys() == bare.keys()
        for name, tensor in aligned.items():
            assert torch.equal(tensor, bare[name])
    other = encoders("none.yaml", "seed=1")
    assert any(not torch.equal(tensor, other[name]) for name, tensor in bare.items())


def test_spaces_of_two_widths_are_refused():
    widths = ["projector={name: identity}", "observer={name: r3d, embed_dim: 64}"]
    with pytest.raises(UserError, match=r"identity leaves u with 64 dimensions and e with 128"):
        assembly.build_joint(load_recipe(RECIPES / "infonce.yaml", widths), PROPERTIES)


def test_ctrl_c_keeps_what_was_trained_and_exits_130(alone: Finished, folder: Path):
    process = subprocess.Popen(
        command("infonce", "name=stopped", "train.steps=4000"),
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = folder / "runs" / "stopped" / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not (log.exists() and log.read_text().count("train/loss") >= 2):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "mirrorlib: interrupted" in errors
    (checkpoint,) = (folder / "runs" / "stopped" / "checkpoints").iterdir()
    assert 2 <= step_of(checkpoint) == log.read_text().count("train/loss")


def test_ctrl_c_at_a_terminal_keeps_what_was_recorded(tmp_path: Path):
    """A terminal interrupts the workers, too."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mirrorlib.cli", "record", RECIPES / "infonce.yaml"],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )

    def recorded() -> int:
        return len(list((tmp_path / "cache").rglob("*.safetensors")))

    deadline = time.monotonic() + 100
    while recorded() < 5:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert 5 <= recorded() < 588
    assert not list((tmp_path / "cache").rglob("*.partial"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["batch.instructions=5"], "batch.instructions is 5, but .* has 4 instructions"),
        (["data.clip_cameras=[ceiling]"], "no camera 'ceiling'"),
        (["data.step_cameras=[ceiling]"], "no camera 'ceiling'"),
        (["source.tasks={fly: null}"], "no task `fly`"),
        (["train.precision=fp16"], "fp16, which needs a GPU"),
        (["output=/dev/null/runs"], "runs cannot be kept there"),
        (["data.cache=/dev/null/cache"], "demonstrations cannot be kept there"),
        (["evaluation.split=val"], "the source has no val episodes"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_2(folder: Path, overrides: list[str], message: str):
    done = subprocess.run(
        [sys.executable, "-m", "mirrorlib.run", RECIPES / "infonce.yaml", *SMALL, *overrides],
        cwd=folder,
        env=environment(folder) | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("mirrorlib: ")]
    assert len(lines) == 1
    assert re.search(message, lines[0])
    assert "Traceback" not in done.stderr
