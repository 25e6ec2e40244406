"""Suites: a base recipe, named changes to it, and seeds. Every arm at every seed is one run."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import Field, Strict, field_validator

from mirrorlib.errors import RecipeError, UserError, suggestion
from mirrorlib.provenance import used_versions
from mirrorlib.recipe import Recipe, load_recipe
from mirrorlib.sections import Section
from mirrorlib.validation import validated
from mirrorlib.yamlfile import Document, read_yaml

RECORDS = Path("records")
MOST_SEEDS = 10_000
RESERVED: Mapping[str, str] = {
    "name": "runs are named after suite, arm and seed",
    "seed": "seeds are the suite's, or --seeds",
    "tracking.suite": "it is the suite's name",
    "tracking.arm": "it is the arm's name",
    "tracking.records": "use --records",
    "train.resume": "runs of a suite always resume",
    "train.max_steps": "only whole runs are compared",
}
"""What the suite itself says of every run."""

Seed: TypeAlias = Annotated[int, Field(ge=0, lt=2**31)]


class _SuiteFile(Section):
    """A suite as it is written."""

    name: str = Field(max_length=40, description="Names the suite's runs and records.")
    recipe: str = Field(description="The base recipe, relative to this file.")
    baseline: str = Field(description="The arm that the others are compared with.")
    seeds: Annotated[tuple[Seed, ...], Strict(False), Field(min_length=1)] = Field(
        description="How many, from 0, or a list."
    )
    question: str | None = Field(
        None,
        description="The arm whose difference from the baseline is asked in advance: p-values are "
        "for it alone.",
    )
    arms: dict[str, dict[str, Any]] = Field(
        min_length=1, description="By name, what each arm changes, as `section.key: value`."
    )

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        return _named(name)

    @field_validator("seeds", mode="before")
    @classmethod
    def _counted(cls, seeds: Any) -> Any:
        if isinstance(seeds, int) and not isinstance(seeds, bool):
            if not 0 < seeds <= MOST_SEEDS:
                raise ValueError(f"{seeds} is no count: 1 to {MOST_SEEDS}, or a list of seeds")
            return range(seeds)
        if isinstance(seeds, list) and any(seeds.count(seed) > 1 for seed in seeds):
            raise ValueError("names a seed twice")
        return seeds

    @field_validator("arms")
    @classmethod
    def _arms_name_files(cls, arms: dict[str, Any]) -> dict[str, Any]:
        for name in arms:
            if len(_named(name)) > 30:
                raise ValueError(f"the name {name!r} is longer than 30 characters")
        return arms


@dataclass(frozen=True)
class Run:
    """One arm at one seed. overrides: `a.b=c`, all that makes `recipe` of the base recipe.
    versions: of mirrorlib and of the plugins that it uses, as they are now."""

    arm: str
    seed: int
    recipe: Recipe
    overrides: tuple[str, ...]
    versions: Mapping[str, str]

    @property
    def label(self) -> str:
        return f"{self.arm} seed {self.seed}"

    @property
    def folder(self) -> Path:
        """The run's folder, there once it has begun."""
        return Path(self.recipe.output) / self.recipe.name


@dataclass(frozen=True)
class Suite:
    """arms: in the order of the file. runs: seed by seed, so that arms can be paired early.
    records: the folder where finished runs leave their records."""

    name: str
    baseline: str
    question: str | None
    arms: tuple[str, ...]
    file: Path
    recipe_file: Path
    records: Path
    runs: tuple[Run, ...]

    def arguments(self, run: Run) -> list[str]:
        """What `mirrorlib.run` is told. Sent again, it goes on from the run's last checkpoint."""
        return [str(self.recipe_file), *run.overrides, "train.resume=true"]


def records_folder(suite: Suite, override: str | Path | None = None) -> Path:
    """Where the suite's records lie: `records/<name>` in the working directory, or `override`."""
    return _records(suite.name, override)


def load_suite(
    path: str | PathLike[str],
    overrides: Sequence[str] = (),
    *,
    seeds: Sequence[int] | None = None,
    records: str | Path | None = None,
) -> Suite:
    """Reads a suite and checks the recipe of every run of it; nothing is run.

    overrides: `a.b=c`, of the base recipe; an arm's own changes come after them. seeds: instead of
    the file's. records: a folder instead of `records/<name>`. Raises RecipeError with every
    problem at once, each `file:line:column: what`, and of an arm with its name.
    """
    document = read_yaml(Path(path))
    written = _read(document)
    recipe_file = _from_here(Path(path).parent / written.recipe)
    if not recipe_file.is_file():
        document.report(("recipe",), f"no such file: {recipe_file}")
        document.raise_problems()
    plan = _Plan(document, written, recipe_file, _records(written.name, records), tuple(overrides))
    runs = tuple(plan.runs(written.seeds if seeds is None else seeds))
    plan.raise_problems()
    return Suite(
        written.name,
        written.baseline,
        written.question,
        tuple(written.arms),
        Path(path),
        recipe_file,
        plan.records,
        runs,
    )


def parse_seeds(text: str) -> list[int]:
    """`0,3` or `0-4` or both. Raises UserError."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part.strip())
        found = range(int(match[1]), int(match[2] or match[1]) + 1) if match else range(0)
        if not 0 < len(found) <= MOST_SEEDS:
            raise UserError(f"--seeds {text}: {part!r} is no seed; write 0,3 or 0-4")
        seeds += found
    return list(dict.fromkeys(seeds))


def _read(document: Document) -> _SuiteFile:
    """Raises RecipeError."""
    written = validated(document, _SuiteFile)
    for key in ("baseline", "question"):
        arm = getattr(written, key)
        if arm is not None and arm not in written.arms:
            close = suggestion(arm, written.arms)
            document.report((key,), f"there is no arm {arm!r}{close}")
    if written.question == written.baseline:
        document.report(("question",), "is the baseline itself; name the arm compared with it")
    for arm, changes in written.arms.items():
        for key in changes:
            if reason := _reserved(key):
                document.report(("arms", arm, key), reason)
    document.raise_problems()
    return written


@dataclass
class _Plan:
    """The runs of a suite, and the problems of their recipes."""

    document: Document
    written: _SuiteFile
    recipe_file: Path
    records: Path
    overrides: tuple[str, ...]

    def __post_init__(self) -> None:
        self.problems = dict.fromkeys(
            f"override {override}: {reason}"
            for override in self.overrides
            if (reason := _reserved(override.partition("=")[0].strip()))
        )
        try:
            load_recipe(self.recipe_file, self.overrides)
        except RecipeError as error:
            self.problems |= dict.fromkeys(error.lines)

    def runs(self, seeds: Sequence[int]) -> Iterator[Run]:
        for number, seed in enumerate(seeds):
            arms: dict[str, str] = {}
            for arm in self.written.arms:
                run = self._run(arm, seed)
                if run is None:
                    continue
                same = arms.setdefault(run.recipe.sha, arm)
                if same != arm and number == 0:
                    self._report(arm, f"is the same recipe as arm {same}")
                yield run

    def raise_problems(self) -> None:
        """Raises RecipeError."""
        if self.problems:
            raise RecipeError(*self.problems)

    def _run(self, arm: str, seed: int) -> Run | None:
        """None where its recipe has problems, which are kept."""
        changes = {f"{k}={_plain(v)}": k for k, v in self.written.arms[arm].items()}
        own = {
            "seed": seed, "tracking.suite": self.written.name, "tracking.arm": arm,
            "tracking.records": str(self.records),
        }  # fmt: skip
        overrides = (*self.overrides, *changes, *(f"{k}={_plain(v)}" for k, v in own.items()))
        try:
            recipe = load_recipe(self.recipe_file, overrides)
        except RecipeError as error:
            for problem in error.lines:
                self._attribute(problem, arm, changes)
            return None
        versions = used_versions(recipe)
        name = f"{self.written.name}-{arm}-seed{seed}-{_digest(recipe, versions)}"
        recipe = recipe.model_copy(update={"name": name})
        return Run(arm, seed, recipe, (*overrides, f"name={name}"), versions)

    def _attribute(self, problem: str, arm: str, changes: Mapping[str, str]) -> None:
        """Keeps a problem with the place in the suite's file that it comes from."""
        if problem in self.problems:
            return
        for text, key in changes.items():
            prefix = f"override {text}: "
            if problem.startswith(prefix):
                self._report(arm, problem.removeprefix(prefix), key)
                return
        self._report(arm, problem)

    def _report(self, arm: str, text: str, *keys: str) -> None:
        place = self.document.place(("arms", arm, *keys)).label
        self.problems[f"{place}: arm {arm}: {text}"] = None


def _named(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"{name!r} must name a file: letters and digits, then also . _ -")
    return name


def _reserved(key: str) -> str | None:
    return f"{key}: cannot be changed in a suite: {RESERVED[key]}" if key in RESERVED else None


def _records(name: str, override: str | Path | None) -> Path:
    return RECORDS / name if override is None else Path(override)


def _digest(recipe: Recipe, versions: Mapping[str, str]) -> str:
    """Six digits for a run's folder, so that it is never gone on with by another recipe or by other
    versions than began it."""
    text = json.dumps([recipe.sha, versions], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _plain(value: Any) -> str:
    """A value as the right side of an override, in YAML on one line."""
    if isinstance(value, str) and re.fullmatch(
        r"(?!(?i:true|false|null)$)[A-Za-z/][\w./-]*", value
    ):
        return value
    return json.dumps(value, ensure_ascii=False)


def _from_here(path: Path) -> Path:
    """The path as one would type it in the working directory."""
    path = path.resolve()
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
