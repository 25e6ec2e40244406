"""Suites: what is planned, and every problem of it at once."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorlib import cli
from mirrorlib.errors import RecipeError, UserError
from mirrorlib.recipe import flatten, load_recipe
from mirrorlib.registry import Registry
from mirrorlib.suite import load_suite, parse_seeds, records_folder
from mirrorlib.suites.running import chosen

SUITE = """\
# a question
name: q
recipe: base.yaml
baseline: none
seeds: [3, 1]
arms:
  pull: {}
  none: {objective: {name: none}}
  soft:
    objective.temperature: 0.5
    train.weights.alignment: 2
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, recipe_file: Path, registry: Registry, monkeypatch) -> Path:
    """A folder with a suite of made-up components."""
    monkeypatch.setattr("mirrorlib.recipe.installed", lambda: registry)
    monkeypatch.chdir(tmp_path)
    recipe_file.rename("base.yaml")
    Path("q.yaml").write_text(SUITE)
    return tmp_path


def problems(text: str, *overrides: str) -> list[str]:
    Path("q.yaml").write_text(text)
    with pytest.raises(RecipeError) as error:
        load_suite("q.yaml", overrides)
    return list(error.value.lines)


def test_every_arm_at_every_seed_is_a_run_seed_by_seed() -> None:
    suite = load_suite("q.yaml")
    assert (suite.name, suite.baseline, suite.arms) == ("q", "none", ("pull", "none", "soft"))
    assert [(run.seed, run.arm) for run in suite.runs] == [
        (seed, arm) for seed in (3, 1) for arm in ("pull", "none", "soft")
    ]
    assert suite.recipe_file == Path("base.yaml")


def test_a_run_differs_from_the_base_in_what_its_arm_says() -> None:
    suite = load_suite("q.yaml", ["train.steps=7"])
    base = load_recipe("base.yaml").decisive()
    for run in suite.runs:
        recipe = run.recipe.decisive()
        differ = {k for k in base.keys() | recipe.keys() if base.get(k) != recipe.get(k)}
        own = {
            "pull": set(),
            "none": {"objective.name", "objective.temperature"},
            "soft": {"objective.temperature", "train.weights.alignment"},
        }[run.arm]
        assert differ == own | {"train.steps"} | ({"seed"} if run.seed != 1 else set())
        assert run.recipe.tracking.suite == "q"
        assert run.recipe.tracking.arm == run.arm
        assert run.recipe.tracking.records == "records/q"
        assert run.recipe.seed == run.seed


def test_what_is_launched_is_the_planned_recipe() -> None:
    suite = load_suite("q.yaml", ["train.steps=7", "evaluation.templates=['a {}', '{} b']"])
    for run in suite.runs:
        file, *overrides = suite.arguments(run)
        recipe = load_recipe(file, overrides)
        assert recipe.resolved() == run.recipe.resolved()
        assert recipe.train.resume


def test_runs_are_named_for_what_decides_them() -> None:
    names = [run.recipe.name for run in load_suite("q.yaml").runs]
    assert all(re.fullmatch(r"q-(pull|none|soft)-seed[13]-[0-9a-f]{6}", name) for name in names)
    again = [run.recipe.name for run in load_suite("q.yaml", ["tracking.experiment=e"]).runs]
    assert again == names
    other = [run.recipe.name for run in load_suite("q.yaml", ["train.steps=7"]).runs]
    assert not set(names) & set(other)


def test_other_versions_run_in_folders_of_their_own(monkeypatch) -> None:
    names = [run.recipe.name for run in load_suite("q.yaml").runs]
    monkeypatch.setattr("mirrorlib.suite.used_versions", lambda recipe: {"mirrorlib": "9"})
    other = load_suite("q.yaml").runs
    assert not set(names) & {run.recipe.name for run in other}
    assert [run.versions for run in other] == [{"mirrorlib": "9"}] * 6


def test_an_arm_has_the_last_word() -> None:
    runs = load_suite("q.yaml", ["objective.temperature=0.7"]).runs
    temperatures = [run.recipe.objective.options.get("temperature") for run in runs[:3]]
    assert temperatures == [0.7, None, 0.5]


@pytest.mark.parametrize("count", [1, 4])
def test_seeds_may_be_a_count(count: int) -> None:
    Path("q.yaml").write_text(SUITE.replace("[3, 1]", str(count)))
    assert [run.seed for run in load_suite("q.yaml").runs][::3] == list(range(count))
    assert [run.seed for run in load_suite("q.yaml", seeds=[9]).runs] == [9] * 3


def test_records_lie_in_a_folder_of_the_suite() -> None:
    suite = load_suite("q.yaml", records="elsewhere/it is")
    assert suite.records == Path("elsewhere/it is")
    assert suite.runs[0].recipe.tracking.records == "elsewhere/it is"
    assert records_folder(suite) == Path("records/q")
    assert records_folder(suite, "there") == Path("there")
    assert [r.recipe.sha for r in suite.runs] == [r.recipe.sha for r in load_suite("q.yaml").runs]


def test_the_recipe_is_found_beside_the_suite(here: Path, monkeypatch) -> None:
    (here / "below").mkdir()
    monkeypatch.chdir(here / "below")
    Path("q.yaml").write_text(SUITE.replace("base.yaml", "../base.yaml"))
    assert load_suite("q.yaml").recipe_file == here / "base.yaml"
    monkeypatch.chdir(here)
    assert load_suite("below/q.yaml").recipe_file == Path("base.yaml")


def test_problems_of_all_arms_come_at_once_with_their_places() -> None:
    text = SUITE.replace("0.5", "hot").replace("alignment: 2", "alignmnt: 2")
    text = text.replace("name: none}", "name: nome}").replace(
        "pull: {}", "pull: {batch.episodes: 1}"
    )
    assert problems(text) == [
        "q.yaml:7:10: arm pull: batch.episodes: must be greater than or equal to 2, not 1",
        "q.yaml:8:10: arm none: objective.name: no objective named 'nome'; there are: absent, "
        "crowd, exact, hostile, none, pull; did you mean 'none'?",
        "q.yaml:10:5: arm soft: objective.temperature: must be a number, not 'hot'",
        "q.yaml:11:5: arm soft: train.weights.alignmnt: unknown key; did you mean 'alignment'?",
    ]


def test_problems_of_the_base_come_once_and_first() -> None:
    base = Path("base.yaml")
    base.write_text(base.read_text().replace("steps: 20", "steps: many"))
    found = problems(SUITE.replace("0.5", "hot"), "batch.episodes=1")
    assert found == [
        "base.yaml:11:3: train.steps: must be a whole number, not 'many'",
        "override batch.episodes=1: batch.episodes: must be greater than or equal to 2, not 1",
        "q.yaml:10:5: arm soft: objective.temperature: must be a number, not 'hot'",
    ]


def test_what_an_arm_breaks_elsewhere_is_told_with_its_name() -> None:
    (found,) = problems(SUITE.replace("{name: none}", "{name: exact}"))
    assert found == (
        "q.yaml:8:3: arm none: base.yaml:9:1: pairing: is instruction, but objective exact needs "
        "pairing: episode"
    )


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("baseline: none", "baseline: nine",
         "q.yaml:4:1: baseline: there is no arm 'nine'; did you mean 'none'?"),
        ("baseline", "base_line", "q.yaml:4:1: base_line: unknown key; did you mean 'baseline'?"),
        ("seeds: [3, 1]", "seeds: [3, 3]", "q.yaml:5:1: seeds: names a seed twice"),
        ("seeds: [3, 1]", "seeds: 0",
         "q.yaml:5:1: seeds: 0 is no count: 1 to 10000, or a list of seeds"),
        ("seeds: [3, 1]", "seeds: [-1]",
         "q.yaml:5:9: seeds.0: must be greater than or equal to 0, not -1"),
        ("seeds: [3, 1]", "seeds: few", "q.yaml:5:1: seeds: must be a list, not 'few'"),
        ("seeds: [3, 1]", "seeds: true", "q.yaml:5:1: seeds: must be a list, not true"),
        ("name: q", "name: a/b",
         "q.yaml:2:1: name: 'a/b' must name a file: letters and digits, then also . _ -"),
        ("pull: {}", "a/b: {}",
         "q.yaml:6:1: arms: 'a/b' must name a file: letters and digits, then also . _ -"),
        ("pull: {}", "pull:", "q.yaml:7:3: arms.pull: must be a mapping, not null"),
        ("base.yaml", "bass.yaml", "q.yaml:3:1: recipe: no such file: bass.yaml"),
        ("pull: {}", "pull: {seed: 3}",
         "q.yaml:7:10: arms.pull.seed: seed: cannot be changed in a suite: seeds are the suite's, "
         "or --seeds"),
        ("pull: {}", "pull: {objective.temperature: 0.2}\n  same: {}",
         "q.yaml:8:3: arm same: is the same recipe as arm pull"),
    ],
)  # fmt: skip
def test_mistakes_of_a_suite_are_one_line(old: str, new: str, told: str) -> None:
    assert told in problems(SUITE.replace(old, new, 1))


def test_the_suite_names_and_seeds_its_runs() -> None:
    assert problems(SUITE, "name=x", "train.max_steps=3") == [
        "override name=x: name: cannot be changed in a suite: runs are named after suite, arm and "
        "seed",
        "override train.max_steps=3: train.max_steps: cannot be changed in a suite: only whole "
        "runs are compared",
    ]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"])),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text("abc-: {", min_size=1), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(VALUES)
def test_a_value_survives_the_command_line(value: Any) -> None:
    from mirrorlib.suite import _plain
    from mirrorlib.yamlfile import plain_document

    document = plain_document({"a": 1})
    document.override(0, f"b={_plain(value)}")
    assert not document.problems
    assert document.value["b"] == value
    assert type(document.value["b"]) is type(value)


def test_arms_are_chosen() -> None:
    suite = load_suite("q.yaml")
    assert [run.label for run in chosen(suite, ["soft", "pull"]).runs] == [
        "pull seed 3", "soft seed 3", "pull seed 1", "soft seed 1",
    ]  # fmt: skip
    assert chosen(suite, None) == suite
    with pytest.raises(UserError, match=r"q\.yaml has no arm 'sofft'; did you mean 'soft'\?"):
        chosen(suite, ["sofft"])


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", [3]), ("0,3", [0, 3]), ("0-2", [0, 1, 2]), ("5,0-1,1", [5, 0, 1])]
)
def test_seeds_on_the_command_line(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "1,", "3-1", "-1", "0-", "1.5", "0-99999999"])
def test_seeds_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="is no seed; write 0,3 or 0-4"):
        parse_seeds(text)


SHIPPED = sorted((Path(__file__).parents[1] / "recipes" / "suites").glob("*.yaml"))
OBJECTIVES = next(path for path in SHIPPED if path.stem == "objectives")


@pytest.fixture
def shipped(monkeypatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The real components."""
    pytest.importorskip("mirrorlib_tabletop")
    from mirrorlib.registry import installed

    monkeypatch.setattr("mirrorlib.recipe.installed", installed)


def test_the_suites_that_the_questions_need_are_there() -> None:
    assert {path.stem for path in SHIPPED} == {
        "confirmatory", "objectives", "pairing", "temperature", "positives", "projector", "weights",
        "site",
    }  # fmt: skip


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_suite_is_right(path: Path, shipped) -> None:
    what, launch, *_ = path.read_text().splitlines()
    assert re.match(r"# .*[.?]", what)
    assert launch == f"#   mirrorlib suite recipes/suites/{path.name}"
    suite = load_suite(path)
    assert (suite.name, suite.baseline) == (path.stem, "none")
    assert suite.recipe_file.name == "comparison.yaml"
    base = load_recipe(suite.recipe_file, ["seed=0"])
    for run in suite.runs[: len(suite.arms)]:
        changed = _changed(base.decisive(), run.recipe.decisive())
        allowed = ("objective.", "projector.", "pairing", "train.weights.", "executor.site",
                   "observer.representation")  # fmt: skip
        assert all(key.startswith(allowed) for key in changed), changed
    seeds = {run.seed for run in suite.runs}
    assert seeds == set(range(20 if path.stem == "confirmatory" else 5))


def _changed(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    return {k for k in one.keys() | other.keys() if one.get(k) != other.get(k)}


def test_the_objectives_are_as_in_their_own_recipes(shipped) -> None:
    objectives = pytest.importorskip("mirrorlib_objectives.plugin")
    suite = load_suite(OBJECTIVES, seeds=[0])
    folder = OBJECTIVES.parents[1]
    assert set(suite.arms) == {component.name for component in objectives.mirrorlib_objectives()}
    for run in suite.runs:
        own = load_recipe(folder / f"{run.arm}.yaml")
        assert run.recipe.objective.options == own.objective.options
        assert run.recipe.objective.name == own.objective.name
        assert run.recipe.projector.options == own.projector.options
        assert run.recipe.pairing == own.pairing
        assert dict(run.recipe.train.weights) == dict(own.train.weights)


def test_arms_say_all_that_they_differ_in(shipped) -> None:
    for path in SHIPPED:
        suite = load_suite(path, seeds=[0])
        base = dict(flatten(load_recipe(suite.recipe_file).resolved()))
        for run in suite.runs:
            resolved = dict(flatten(run.recipe.resolved()))
            told = {text.partition("=")[0] for text in run.overrides}
            for key in _changed(base, resolved):
                assert any(key == name or key.startswith(f"{name}.") for name in told), (path, key)


LINES = """
import sys
from mirrorlib.cli import main
code = main(sys.argv[1:])
assert not {'torch', 'mlflow', 'mujoco', 'matplotlib'} & set(sys.modules)
sys.exit(code)
"""


def test_print_gives_lines_that_a_scheduler_can_run(shipped, tmp_path: Path) -> None:
    arguments = ["--seeds", "0,7", "--print", "train.steps=9", "source.tasks={turn_tap: null}",
                 "--arms=none,cka", "--records=my records"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", LINES, "suite", str(OBJECTIVES), *arguments],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    overrides = ["train.steps=9", "source.tasks={turn_tap: null}"]
    suite = load_suite(OBJECTIVES, overrides, seeds=[0, 7], records="my records")
    planned = [run for run in suite.runs if run.arm in ("none", "cka")]
    lines = done.stdout.splitlines()
    assert len(lines) == len(planned) == 4
    for line, run in zip(lines, planned, strict=True):
        words = shlex.split(line)
        assert words[:4] == ["accelerate", "launch", "-m", "mirrorlib.run"]
        recipe = load_recipe(words[4], words[5:])
        assert recipe.sha == run.recipe.sha
        assert recipe.resolved() == run.recipe.resolved()
        assert recipe.train.resume
    assert not list(tmp_path.glob("records*"))


def test_unknown_options_are_refused(capsys) -> None:
    for arguments in (["suite", "q.yaml", "--prnt"], ["plugins", "a=b"]):
        assert cli.main(arguments) == 2
        assert "unrecognized arguments" in capsys.readouterr().err


def test_overrides_that_decide_numbers_need_a_folder_of_their_own(shipped, capsys):
    said = f"train.steps is not what {OBJECTIVES} has: keep these records apart, with --records"
    assert cli.main(["suite", str(OBJECTIVES), "--seeds", "0", "--print", "train.steps=9"]) == 2
    assert capsys.readouterr().err.strip() == f"mirrorlib: {said} FOLDER"
    arguments = ["suite", str(OBJECTIVES), "--seeds", "0", "--print", "--arms", "none"]
    assert cli.main([*arguments, "evaluation.workers=2", "output=elsewhere"]) == 0
    assert cli.main([*arguments, "train.steps=9", "--records", "mine"]) == 0
