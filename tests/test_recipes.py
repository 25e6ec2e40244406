"""The recipes that ship: one for each objective, and nothing but the objective between them; and
the base of the suites."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from mirrorlib.cli import main
from mirrorlib.recipe import flatten, load_recipe

objectives = pytest.importorskip("mirrorlib_objectives.plugin")
pytest.importorskip("mirrorlib_tabletop")

FOLDER = Path(__file__).parents[1] / "recipes"
RECIPES = sorted(path for path in FOLDER.glob("*.yaml") if path.stem != "probe")
BY_OBJECTIVE = [path for path in RECIPES if path.stem != "comparison"]
LARGE_LOSSES = ("barlow", "vicreg")
LAUNCH = "accelerate launch -m mirrorlib.run"

each_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


def test_every_objective_has_a_recipe_of_its_name() -> None:
    offered = [component.name for component in objectives.mirrorlib_objectives()]
    assert sorted(offered) == [path.stem for path in BY_OBJECTIVE]
    for path in BY_OBJECTIVE:
        recipe = load_recipe(path)
        assert recipe.name == recipe.objective.name == path.stem


@each_recipe
def test_a_recipe_is_right(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(path)]) == 0
    assert capsys.readouterr().out.startswith(f"ok: {path.stem}: ")


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
    assert plain == f"#   {LAUNCH} recipes/{path.name}"
    assert varied.startswith(f"{plain} ")
    overrides = shlex.split(varied.removeprefix(plain))
    written = load_recipe(path).sha
    assert all(load_recipe(path, [override]).sha != written for override in overrides)
