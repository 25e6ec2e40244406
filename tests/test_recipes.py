"""The recipes that ship: one for each objective, and nothing but the objective between them; the
base of the suites; and the large ones, which run here with small networks."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from small_run import environment

from mirrorlib.cli import main
from mirrorlib.recipe import flatten, load_recipe

objectives = pytest.importorskip("mirrorlib_objectives.plugin")
pytest.importorskip("mirrorlib_tabletop")

FOLDER = Path(__file__).parents[1] / "recipes"
RECIPES = sorted(path for path in FOLDER.glob("*.yaml") if path.stem != "probe")
LARGE = sorted(
    path for folder in ("small", "paper", "rlbench") for path in (FOLDER / folder).glob("*.yaml")
)
BY_OBJECTIVE = [path for path in RECIPES if path.stem != "comparison"]
LARGE_LOSSES = ("barlow", "vicreg")

each_recipe = pytest.mark.parametrize("path", [*RECIPES, *LARGE], ids=lambda path: path.stem)
each_large = pytest.mark.parametrize("path", LARGE, ids=lambda path: path.parent.name + path.stem)
SMALL, PAPER = (
    [
        "executor={name: arp, preset: small, image_size: 32, width: 32, depth: 2, heads: 2, "
        "channels: 8, chunk_depth: 2, text: {name: words, width: 32, heads: 2}, "
        "mvt: {patch: 8, cross_layers: 1, chunk_heads: 2}}",
        "observer={name: viclip, preset: tiny, image_size: 32, vision_layers: 1, tuning: lora}",
    ],
    [
        "executor={name: arp, preset: paper, image_size: 56, width: 32, depth: 2, heads: 2, "
        "channels: 8, chunk_depth: 2, text: {name: words, width: 32, heads: 2}, "
        "mvt: {cross_layers: 1, chunk_heads: 2}}",
        "observer={name: viclip, preset: tiny, image_size: 32, vision_layers: 1}",
    ],
)
NETWORKS = {path: SMALL if path.parent.name == "small" else PAPER for path in LARGE} | {
    FOLDER / "rlbench" / "small.yaml": []
}
"""Of the same kinds, small, without published weights."""
ELSEWHERE = {"peract18": ["evaluation.simulator=null"]}
"""What a recipe can do without where its simulator is not installed."""


def test_every_objective_has_a_recipe_of_its_name() -> None:
    offered = [component.name for component in objectives.mirrorlib_objectives()]
    assert sorted(offered) == [path.stem for path in BY_OBJECTIVE]
    for path in BY_OBJECTIVE:
        recipe = load_recipe(path)
        assert recipe.name == recipe.objective.name == path.stem


@each_recipe
def test_a_recipe_is_right(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(path), *ELSEWHERE.get(path.stem, [])]) == 0
    folder = path.relative_to(FOLDER).parent
    name = "-".join([*folder.parts, path.stem])
    assert capsys.readouterr().out.startswith(f"ok: {name}: ")


@pytest.mark.parametrize(("frames", "fate"), [(16, "twice"), (8, None), (4, "for nothing")])
def test_frames_that_are_resampled_are_told(frames: int, fate: str | None, capsys) -> None:
    """Eight frames a clip; they may be resampled, but seldom should be."""
    path = str(FOLDER / "small" / "infonce.yaml")
    assert main(["check", path, f"observer.num_frames={frames}"]) == 0
    _, *notes = capsys.readouterr().out.splitlines()
    assert [note.startswith("note: data.clip_frames is 8, but") for note in notes] == [True] * (
        fate is not None
    )
    assert all(f"read {fate}; set data.clip_frames to {frames}" in note for note in notes)


@each_large
def test_a_large_recipe_trains(path: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mirrorlib.run", str(path), *NETWORKS[path],
         "source={name: tabletop, tasks: {turn_tap: null}, train: 2, test: 1}",
         "batch.instructions=2", "train.max_steps=2", "evaluation.simulator=null",
         "evaluation.probe_steps=5", "data.workers=2", f"data.cache={tmp_path / 'cache'}"],
        cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=False,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (run,) = (tmp_path / "runs").iterdir()
    metrics = json.loads((run / "report.json").read_text())["metrics"]
    learning, every = (metrics[f"cost/observer/parameters{of}"] for of in ("_learning", ""))
    assert 0 < learning <= every and (learning < every) == bool(NETWORKS[path])
    assert metrics["cost/step_flops"] > 0
    assert [c.name for c in (run / "checkpoints").iterdir()] == ["step-000002"]


def test_the_baselines_of_large_recipes_differ_in_the_objective_alone() -> None:
    for folder in ("small", "paper"):
        aligned, alone = (
            dict(flatten(load_recipe(FOLDER / folder / f"{name}.yaml").resolved()))
            for name in ("infonce", "none")
        )
        differ = {k for k in aligned.keys() | alone.keys() if aligned.get(k) != alone.get(k)}
        assert {key.partition(".")[0] for key in differ} == {"name", "objective"}


def test_the_papers_numbers_stand_in_its_recipe() -> None:
    """arXiv 2509.21136, section "Method"; ARP's released training configuration."""
    recipe = load_recipe(FOLDER / "paper" / "infonce.yaml").resolved()
    said = dict(flatten(recipe))
    assert (said["projector.name"], said["projector.dim"]) == ("linear", 1024)
    assert (said["objective.temperature"], said["pairing"]) == (0.1, "instruction")
    weights = [said[f"train.weights.{part}"] for part in ("observer", "executor", "alignment")]
    assert weights == [1.0, 1.0, 0.5]
    pairs = said["batch.instructions"] * said["batch.episodes"]
    assert said["train.learning_rates.executor"] == pytest.approx(1.25e-5 * pairs)
    assert said["train.learning_rates.alignment"] == 1e-4
    assert said["train.steps"] == round(100 * 160_000 / pairs)
    assert (said["train.warmup_steps"], said["train.final_learning_rate"]) == (2000, 0.01)
    assert recipe["train"]["optimizer"]["name"] == "lamb"
    assert said["batch.sampling"] == "task"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("executor.text={name: wrds}", "executor.text.name: no text named 'wrds'"),
        ("observer.text={name: words, widht: 3}", "observer.text.widht: unknown key; did you mean"),
    ],
)
def test_a_text_tower_is_checked_like_any_component(override: str, said: str, capsys) -> None:
    assert main(["check", str(FOLDER / "infonce.yaml"), override]) == 2
    assert f"override {override}: {said}" in capsys.readouterr().err


@pytest.mark.parametrize("arm", [p.stem for p in BY_OBJECTIVE if p.stem != "infonce"])
def test_the_recipes_differ_in_the_objective_alone(arm: str) -> None:
    """But for a pairing that the objective cannot do without, and the weight of one whose loss is
    far larger than the others'."""
    recipe = load_recipe(FOLDER / f"{arm}.yaml")
    aligned, other = (
        dict(flatten(each.resolved())) for each in (load_recipe(FOLDER / "infonce.yaml"), recipe)
    )
    differ = {key for key in aligned.keys() | other.keys() if aligned.get(key) != other.get(key)}
    allowed = {"pairing"} if recipe.objective.required_pairing else set()
    allowed |= {"train.weights.alignment"} if arm in LARGE_LOSSES else set()
    beside = {key for key in differ if not key.startswith("objective.")}
    assert beside == {"name"} | allowed


@each_recipe
def test_a_recipe_opens_with_its_launch_line_and_overrides_that_it_takes(path: Path) -> None:
    what, plain, varied = path.read_text().splitlines()[:3]
    assert what.startswith("# ") and what.endswith(".")
    where = path.relative_to(FOLDER.parent)
    assert re.fullmatch(rf"#   accelerate launch (--\S+( \w+)? )*-m mirrorlib\.run {where}", plain)
    assert varied.startswith(f"{plain} ")
    overrides = shlex.split(varied.removeprefix(plain))
    written = load_recipe(path).sha
    assert all(load_recipe(path, [override]).sha != written for override in overrides)


def test_the_simulator_is_to_sense_what_the_source_recorded(capsys) -> None:
    recipe = str(FOLDER / "infonce.yaml")
    assert main(["check", recipe, "source.image_size=64"]) == 2
    said = (
        "evaluation.simulator.image_size: is 128, but source.image_size is 64; make them the same"
    )
    assert said in capsys.readouterr().err
    both = ["source.image_size=64", "evaluation.simulator.image_size=64"]
    assert main(["check", recipe, *both, "evaluation.simulator.cameras=[front, wrist]"]) == 0
