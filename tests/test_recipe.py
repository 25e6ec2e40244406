"""Recipes: what is right is kept whole, what is wrong is named, placed and explained."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorlib.errors import RecipeError
from mirrorlib.recipe import Recipe, dump_recipe, load_recipe
from mirrorlib.registry import Registry, build_section
from mirrorlib.yamlfile import plain_document, read_yaml, write_yaml


@pytest.fixture
def problems(recipe_file: Path, registry: Registry):
    """The problems of the sample recipe after replacing text and applying overrides."""

    def problems(*changes: tuple[str, str], overrides: tuple[str, ...] = ()) -> list[str]:
        text = recipe_file.read_text()
        for old, new in changes:
            assert text.count(old) == 1
            text = text.replace(old, new)
        recipe_file.write_text(text)
        with pytest.raises(RecipeError) as caught:
            load_recipe(recipe_file, overrides, registry=registry)
        return [line.replace(f"{recipe_file}:", "") for line in caught.value.lines]

    return problems


def test_values_and_defaults(recipe_file: Path, registry: Registry) -> None:
    recipe = load_recipe(recipe_file, registry=registry)
    assert recipe.name == "sample"
    assert recipe.objective.options == {"temperature": 0.2}
    assert recipe.observer.config.trunk.width == 16
    assert recipe.projector.name == "linear"
    assert recipe.train.weights.model_dump() == {
        "observer": 1.0,
        "executor": 1.0,
        "alignment": 0.25,
    }
    assert recipe.train.learning_rates.observer == 1e-3
    assert recipe.train.precision is None
    assert recipe.batch.model_dump() == {"instructions": 16, "episodes": 2, "sampling": None}
    assert recipe.evaluation.templates == ("{}", "a robot: {}")
    assert recipe.data.clip_cameras == ("front",)
    assert list(recipe.components) == [
        "source", "observer", "executor", "projector", "objective", "simulator",
    ]  # fmt: skip
    assert recipe.source.offer.distribution == "mirrorlib-fake"


def test_every_option_is_described() -> None:
    def check(model) -> None:
        for name, field in model.model_fields.items():
            assert field.description, (model, name)
            if hasattr(field.annotation, "model_fields") and name not in (
                "source", "observer", "executor", "projector", "objective",
            ):  # fmt: skip
                check(field.annotation)

    check(Recipe)


def test_resolved_recipe_loads_back_equal(recipe_file: Path, registry: Registry) -> None:
    overrides = ["tracking.tags={a: 'on', b: '1e5', c: 'null', d: '007'}", "train.precision=no"]
    recipe = load_recipe(recipe_file, overrides, registry=registry)
    again = recipe_file.with_name("again.yaml")
    again.write_text(dump_recipe(recipe))
    for other in (again, recipe.resolved(), recipe):
        loaded = load_recipe(other, registry=registry)
        assert loaded == recipe
        assert loaded.sha == recipe.sha
    assert recipe.resolved()["observer"] == {
        "name": "eyes", "preset": "tiny", "trunk": {"width": 16}, "rate": 1e-5,
        "cameras": None, "proprioception_dim": None,
    }  # fmt: skip
    assert load_recipe(recipe, ["seed=2"], registry=registry).sha != recipe.sha
    assert len(recipe.sha) == 12


def test_overrides(recipe_file: Path, registry: Registry) -> None:
    recipe = load_recipe(
        recipe_file,
        [
            "objective.temperature=1e-3",
            "train.learning_rates.executor=1e-5",
            "evaluation.templates.1='now: {}'",
            "evaluation.simulator=null",
            "name=other-1",
            "observer={name: eyes, preset: big}",
            "seed=3",
            "seed=4",
        ],
        registry=registry,
    )
    assert recipe.objective.options == {"temperature": 1e-3}
    assert recipe.train.learning_rates.executor == 1e-5
    assert recipe.evaluation.templates == ("{}", "now: {}")
    assert recipe.evaluation.simulator is None
    assert recipe.observer.options["trunk"] == {"width": 8}
    assert (recipe.name, recipe.seed) == ("other-1", 4)


def test_options_left_null_are_filled_in(recipe_file: Path, registry: Registry) -> None:
    recipe = load_recipe(recipe_file, ["executor.proprioception_dim=3"], registry=registry)
    known = {"cameras": ["a", "b"], "proprioception_dim": 7, "workspace": (0,) * 6}
    built = build_section("executor", recipe.executor, known)
    assert built.config.cameras == ("a", "b")
    assert built.config.proprioception_dim == 3
    assert recipe.executor.config.cameras is None


def test_all_problems_at_once_in_order(problems) -> None:
    found = problems(
        ("seed: 1", "sed: 1\nseed: 0"),
        ("temperature: 2e-1", "temprature: 2e-1"),
        ("steps: 20", "steps: many"),
        ("pairing: instruction", "pairing: instructions"),
        ("alignment: 0.25", "alignment: -1\n"),
        ("name: hands", "name: hand"),
        overrides=("batch.episodes=1", "train.wieghts.executor=1", "seed.x=1", "output"),
    )
    assert found == [
        "2:1: sed: unknown key; did you mean 'seed'?",
        "8:12: executor.name: no executor named 'hand'; there are: hands; did you mean 'hands'?",
        "9:25: objective.temprature: unknown key; did you mean 'temperature'?",
        "10:1: pairing: must be 'episode', 'instruction' or 'task', not 'instructions'; "
        "did you mean 'instruction'?",
        "12:3: train.steps: must be a whole number, not 'many'",
        "13:13: train.weights.alignment: must be greater than or equal to 0, not -1",
        "override batch.episodes=1: batch.episodes: must be greater than or equal to 2, not 1",
        "override train.wieghts.executor=1: train.wieghts: unknown key; did you mean 'weights'?",
        "override seed.x=1: seed is not a section: no 'x' in it",
        "override output: write it as section.key=value",
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("seed: 1", "seed: 1\nseed: 2", "3:1: seed: duplicate key, given before at 2:1"),
        ("seed: 1", "seed: yes", "2:1: seed: must be a whole number, not 'yes'"),
        ("seed: 1", "seed: true", "2:1: seed: must be a whole number, not true"),
        ("seed: 1", "seed: '1'", "2:1: seed: must be a whole number, not '1'"),
        ("seed: 1", "seed: -1", "2:1: seed: must be greater than or equal to 0, not -1"),
        ("seed: 1", "name: 5", "2:1: name: must be text, not 5; quote it: \"5\""),
        ("seed: 1", "name: ../up", "2:1: name: '../up' must name a folder"),
        ("seed: 1", "seed: &a 1\nbatch: {episodes: *a}", "3:19: not YAML: aliases are not"),
        ("seed: 1", "seed: !!python/name:os.system x", "2:1: seed: the tag"),
        ("seed: 1", "seed: !!int x", "2:1: seed: 'x' is no int"),
        ("seed: 1", "seed: [1", "3:7: not YAML"),
        ("seed: 1", "seed: 1\n\tx: 2", "3:1: not YAML"),
        ("seed: 1", "seed: \x01", "2:7: not YAML: the character '\\x01' is not allowed"),
        ("seed: 1", "? [a]\n: 1", "2:3: a key must be text"),
        ("seed: 1", "<<: {seed: 1}", "2:1: <<: unknown key"),
        ("seed: 1", "--- {}\n---", "not YAML"),
        ("{name: pull, temperature: 2e-1}", "pull", "8:1: objective: must be a mapping with a"),
        ("{name: pull, temperature: 2e-1}", "{}", "8:1: objective.name: is missing; there are"),
        ("{name: pull, temperature: 2e-1}", "", "8:1: objective: must be a mapping with a name"),
        ("{name: pull, temperature: 2e-1}", "{name: none, a: 1}", "8:25: objective.a: unknown"),
        ("{name: pull, temperature: 2e-1}", "{name: hostile, size: 1}", "8:1: objective: obj"),
        ("name: pull,", "name: absent,", "8:13: objective.name: objective 'absent' of mirrorlib"),
        ("2e-1", "-2", "8:25: objective.temperature: must be greater than 0, not -2"),
        ("2e-1", "13", "8:1: objective: objective 'pull' of mirrorlib-fake 1.0 cannot read"),
        ("objective:", "objektive:", "2:1: objective: is missing: What aligns u and e"),
        ("width: 16", "widht: 16", "6:11: observer.trunk.widht: unknown key; did you mean"),
        ("steps: 20", "log_every: 1", "10:1: train.steps: is missing: Optimiser steps"),
        ("steps: 20", "steps: 1e999", "11:3: train.steps: must be a"),
        ("0.25", ".nan", "12:13: train.weights.alignment: must be"),
        ("0.25", ".inf", "12:13: train.weights.alignment: must be a finite number"),
        ('"a robot: {}"', '"a robot"', "15:3: evaluation.templates: 'a robot' must hold {}"),
        ('"a robot: {}"', '"{} {x}"', "15:3: evaluation.templates: '{} {x}' must hold {}"),
        ('["{}", "a robot: {}"]', "[]", "15:3: evaluation.templates: "),
        ('["{}", "a robot: {}"]', "text", "15:3: evaluation.templates: must be a list"),
        ('"a robot: {}"', "5", "15:21: evaluation.templates.1: must be text, not 5"),
        ("{name: scenes}", "{name: scene}", "14:15: evaluation.simulator.name: no simulator"),
    ],
)  # fmt: skip
def test_one_problem(problems, old: str, new: str, expected: str) -> None:
    found = [line.replace("at " + line.split(" at ")[-1], "at 2:1")
             if "given before" in line else line for line in problems((old, new))]  # fmt: skip
    assert any(line.startswith(expected) or expected in line for line in found), found
    assert all("\n" not in line for line in found)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "{path}:1:1: is empty; a recipe is a mapping of sections"),
        (b"# nothing\n", "{path}:1:1: is empty; a recipe is a mapping of sections"),
        (b"- 1\n", "{path}:1:1: holds a list; a recipe is a mapping of sections"),
        (b"word", "{path}:1:1: holds text; a recipe is a mapping of sections"),
        (b"a: \xff", "{path}: byte 3 is not UTF-8 text"),
        (b"[" * 3000, "{path}:1:1: not a recipe: nested too deeply"),
        (b"a: " + b"9" * 5000, "{path}:1:1: a: '" + "9" * 40 + "' is no int"),
    ],
)
def test_unreadable_files(tmp_path: Path, registry: Registry, content, expected) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, registry=registry)
    assert caught.value.lines[0] == expected.format(path=path)


def test_missing_file_folder_and_strange_names(recipe_file: Path, registry: Registry) -> None:
    def problem(path: object) -> str:
        with pytest.raises(RecipeError) as caught:
            load_recipe(path, registry=registry)  # type: ignore[arg-type]
        (line,) = caught.value.lines
        return line

    missing = recipe_file.with_name("simple.yaml")
    assert problem(missing) == f"{missing}: no such file; did you mean 'sample.yaml'?"
    folder = recipe_file.parent
    assert problem(folder) == f"{folder}: is a folder, not a recipe; name a file in it"
    assert "is no file name" in problem("a\0b")
    assert problem([1]) == "recipe: must be a mapping of sections, not a list"
    assert problem(recipe_file / "below").endswith("cannot be read: Not a directory")


def test_a_file_name_that_names_no_folder(recipe_file: Path, registry: Registry) -> None:
    spaced = recipe_file.rename(recipe_file.with_name("my recipe.yaml"))
    with pytest.raises(RecipeError) as caught:
        load_recipe(spaced, registry=registry)
    assert caught.value.lines[0].startswith(f"{spaced}:2:1: name: 'my recipe' must name a folder")
    assert load_recipe(spaced, ["name=mine"], registry=registry).name == "mine"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a..b=1", "write it as section.key=value"),
        ("=1", "write it as section.key=value"),
        ("seed=[", "not YAML: "),
        ("evaluation.templates.2=x", "evaluation.templates is a list of 2, from 0: no '2' in it"),
        ("evaluation.templates.x=x", "evaluation.templates is a list of 2, from 0: no 'x' in it"),
        ("observer={name: eyes, trunk: {widht: 1}}", "observer.trunk.widht: unknown key; did you"),
        ("train={steps: 1, steps: 2}", "train.steps: duplicate key"),
        ("objective.name=none", "objective.temperature: unknown key; there are no options"),
        ("data.workers=0", "data.workers: must be greater than or equal to 1, not 0"),
        ("train.precision=fp8", "train.precision: must be 'no', 'bf16' or 'fp16', not 'fp8'"),
    ],
)
def test_bad_overrides_name_themselves(problems, override: str, expected: str) -> None:
    found = problems(overrides=(override,))
    here = [line for line in found if expected in line]
    assert len(here) == 1, found
    assert here[0].startswith(f"override {override}: ") or "objective.temperature" in here[0]


def test_numbers_words_and_dates(tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(
        "a: 1e-3\nb: 1e5\nc: -.5\nd: 5.\ne: on\nf: yes\ng: True\nh: ~\ni: 2026-01-01\nj: 1:30\n"
        "k: 0x1F\nl: 010\nm: .inf\nn: '1e5'\non: 1\n2: x\no: 1_000\np:\nq: no\n"
    )
    document = read_yaml(path)
    assert document.value == {
        "a": 1e-3, "b": 1e5, "c": -0.5, "d": 5.0, "e": "on", "f": "yes", "g": True, "h": None,
        "i": "2026-01-01", "j": "1:30", "k": 31, "l": 10, "m": math.inf, "n": "1e5", "on": 1,
        "2": "x", "o": "1_000", "p": None, "q": "no",
    }  # fmt: skip
    path.write_text(write_yaml(document.value))
    assert read_yaml(path).value == document.value


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(), VALUES))
def test_what_is_written_is_read_back(tmp_path_factory, value) -> None:
    path = tmp_path_factory.getbasetemp() / "round.yaml"
    path.write_bytes(write_yaml(value).encode("utf-8", "surrogatepass"))
    assert read_yaml(path).value == value


def outcome(recipe, overrides, registry: Registry) -> None:
    """Anything but a Recipe or a RecipeError fails."""
    try:
        loaded = load_recipe(recipe, overrides, registry=registry)
    except RecipeError as error:
        assert error.lines
        assert all(line.strip() and "\n" not in line for line in error.lines)
    else:
        assert load_recipe(loaded.resolved(), registry=registry) == loaded


def test_a_batch_too_small_for_its_objective_is_a_problem(registry: Registry, recipe_file) -> None:
    crowd = "objective={name: crowd}"
    with pytest.raises(RecipeError) as error:
        load_recipe(recipe_file, [crowd, "batch.episodes=2"], registry=registry)
    assert error.value.lines == [
        "override batch.episodes=2: batch: instructions x episodes is 32, but objective crowd "
        "needs 40 pairs"
    ]
    assert load_recipe(recipe_file, [crowd, "batch.episodes=3"], registry=registry)


def test_a_pairing_that_its_objective_cannot_use_is_a_problem(registry: Registry, recipe_file):
    exact = "objective={name: exact}"
    with pytest.raises(RecipeError) as error:
        load_recipe(recipe_file, [exact], registry=registry)
    (line,) = error.value.lines
    assert line.endswith(
        ":9:1: pairing: is instruction, but objective exact needs pairing: episode"
    )
    assert load_recipe(recipe_file, [exact, "pairing=episode"], registry=registry)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_fuzzed_text(data, registry: Registry, tmp_path_factory) -> None:
    text = FUZZED
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        length = data.draw(st.integers(0, 8))
        inserted = data.draw(st.text(max_size=4) | st.sampled_from(list("{}[]:#&*!|>'\"%@`\n\t-,")))
        text = text[:start] + inserted + text[start + length :]
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    outcome(path, (), registry)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_fuzzed_values(data, registry: Registry, tmp_path_factory) -> None:
    path = tmp_path_factory.getbasetemp() / "values.yaml"
    path.write_text(FUZZED)
    document = read_yaml(path)
    keys = data.draw(st.sampled_from(sorted(document.places, key=str)).filter(bool))
    at = plain_document(document.value)
    parent = at.value
    for key in keys[:-1]:
        parent = parent[key]
    parent[keys[-1]] = data.draw(VALUES)
    outcome(at.value, data.draw(st.lists(st.text(), max_size=2)), registry)


FUZZED = """\
seed: 1
source: {name: scenes, count: 4}
observer: {name: eyes, trunk: {width: 16}}
executor: {name: hands}
objective: {name: pull, temperature: 2e-1}
train: {steps: 20, weights: {alignment: 0.25}}
evaluation: {simulator: {name: scenes}, templates: ["{}"]}
tracking: {tags: {a: b}}
"""
