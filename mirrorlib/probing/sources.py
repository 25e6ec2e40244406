"""Where representations come from: two checkpoints, two files, or one of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mirrorlib.errors import UserError
from mirrorlib.evaluation.representations import Represented
from mirrorlib.evaluation.rollouts import OUTCOMES, read_outcomes
from mirrorlib.interfaces import Split
from mirrorlib.probing.controls import impossible
from mirrorlib.probing.frozen import Frozen, Rows, Side, paired, read_rows
from mirrorlib.probing.measure import check_pairs
from mirrorlib.probing.names import ALTERED, Control
from mirrorlib.probing.settings import ProbeSettings, SiteSection
from mirrorlib.recipe import load_recipe
from mirrorlib.training.checkpoint import (
    CHECKPOINTS,
    INDEX,
    RECIPE,
    checkpoints,
    damage,
    find_checkpoint,
)

AS_TRAINED = "as trained"
SIDES: tuple[Side, Side] = ("observer", "executor")


@dataclass(frozen=True)
class Place:
    """Where one side's rows come from: a file or a checkpoint, and overrides of its recipe."""

    path: Path
    overrides: tuple[str, ...] = ()

    @property
    def is_file(self) -> bool:
        return self.path.is_file()


@dataclass(frozen=True)
class Planned:
    """A variant to be measured. site, checkpoint: as shown."""

    observer: Place
    executor: Place
    site: str
    checkpoint: str
    last: bool


def planned(settings: ProbeSettings) -> list[Planned]:
    """Every pair of checkpoints, the last one first, and every site of each. Raises UserError."""
    found = []
    for number, (observer, executor) in enumerate(_places(settings)):
        shown = " + ".join(dict.fromkeys(p.name for p in (observer, executor)))
        own = Place(observer), Place(executor)
        found.append(Planned(own[0], own[1], AS_TRAINED, shown, not number))
        for side, section in (
            ("observer", settings.sites.observer),
            ("executor", settings.sites.executor),
        ):
            for override in _overrides(side, section):
                places = [
                    Place(place.path, (override,) if side == each else ())
                    for each, place in zip(SIDES, own, strict=True)
                ]
                if places[SIDES.index(side)].is_file:
                    raise UserError(f"sites.{side}: {settings.name} takes the {side} from a file")
                found.append(Planned(places[0], places[1], override, shown, not number))
    for place in dict.fromkeys(place for plan in found for place in (plan.observer, plan.executor)):
        if not place.is_file:
            load_recipe(place.path / RECIPE, place.overrides)
    return found


def _overrides(side: str, section: SiteSection | None) -> Iterator[str]:
    if section is not None:
        yield from (f"{side}.{section.option}={value}" for value in section.values)


def _places(settings: ProbeSettings) -> list[tuple[Path, Path]]:
    given = Path(settings.observer), Path(settings.executor)
    for side, path in zip(SIDES, given, strict=True):
        if not path.exists():
            raise UserError(f"{side}: {path} is no run, no checkpoint and no file")
    if settings.checkpoints == "last":
        observer, executor = (p if p.is_file() else find_checkpoint(p) for p in given)
        return [(observer, executor)]
    steps: list[dict[str, Path]] = []
    for side, path in zip(SIDES, given, strict=True):
        if path.is_file() or (path / INDEX).exists():
            raise UserError(f"checkpoints is all, but {side} is {path}, which is no run's folder")
        steps.append({c.name: c for c in checkpoints(path / CHECKPOINTS) if damage(c) is None})
    shared = [name for name in steps[0] if name in steps[1]]
    if not shared:
        raise UserError(
            f"{given[0]} and {given[1]} have no checkpoint of the same step; set "
            "checkpoints to last"
        )
    return [(steps[0][name], steps[1][name]) for name in shared]


def outcomes_of(settings: ProbeSettings, executor: Place) -> tuple[dict[str, bool], str]:
    """Whether the executor solved each scene of the split, by the episode's name, and in words
    where that comes from or how to get it. Raises UserError where `outcomes` is wrong."""
    path = Path(settings.outcomes or executor.path)
    folder = path
    if path.is_file():
        folder = path.parent
    elif (path / INDEX).exists():
        folder = path.parent.parent
        if not settings.outcomes and path != checkpoints(path.parent)[0]:
            return {}, f"none: the rollouts in {folder} are of its last checkpoint, not of {path}"
    found = {
        f"{scene.split}/{scene.task}/{scene.variation}/{scene.index}": solved
        for scene, solved in read_outcomes(folder).items()
        if scene.split == settings.split
    }
    if found:
        return found, f"{folder / OUTCOMES}, {len(found)} scenes"
    if settings.outcomes:
        raise UserError(f"outcomes: {folder} holds no {OUTCOMES} of the {settings.split} split")
    if path.is_file():
        return {}, f"none beside {path}; name the executor's run folder under outcomes"
    return {}, (
        f"none of the {settings.split} split in {folder}; `mirrorlib evaluate {settings.executor} "
        f"evaluation.split={settings.split}` leaves them in a folder to be named under outcomes"
    )


@dataclass
class Representations:
    """Computes rows, each once."""

    settings: ProbeSettings
    device: torch.device
    _frozen: dict[tuple[Side, Place], Frozen] = field(default_factory=dict)
    _rows: dict[tuple[Side, Place, Control | None], dict[str, Rows]] = field(default_factory=dict)

    def pairs(
        self, plan: Planned, control: Control | None = None
    ) -> tuple[Represented, Represented] | str:
        """Training and held-out pairs, e as the control has it; or why they cannot be had.
        Raises UserError."""
        if control in ALTERED:
            if plan.executor.is_file:
                return "the executor is a file"
            if control == "unshared_camera" and plan.observer.is_file:
                return "which camera the observer watches is not known of a file"
        else:
            control = None
        self._check_sources(plan)
        u, e = self._side("observer", plan), self._side("executor", plan, control)
        where = f"{plan.observer.path} and {plan.executor.path}"
        train, test = (paired(u[s], e[s], where) for s in ("train", self.settings.split))
        check_pairs(train, test, where)
        return train, test

    def left_out(
        self, plan: Planned, control: Control, train: Represented, test: Represented
    ) -> str | None:
        """Why a control makes no sense here, None where it does."""
        if plan.executor.is_file or plan.observer.is_file:
            return impossible(control, train, test)
        cameras = self._load("executor", plan.executor).cache.layout.step_cameras
        watched = [self._load("observer", plan.observer).watched]
        return impossible(control, train, test, cameras, watched)

    def _check_sources(self, plan: Planned) -> None:
        if plan.observer.is_file or plan.executor.is_file:
            return
        ours, theirs = self._load("observer", plan.observer), self._load("executor", plan.executor)
        if ours.fingerprint != theirs.fingerprint:
            raise UserError(
                f"{plan.observer.path} and {plan.executor.path} learnt from different sources "
                f"({_difference(ours, theirs)}): their scenes are not the same"
            )

    def _side(self, side: Side, plan: Planned, control: Control | None = None) -> dict[str, Rows]:
        place = plan.observer if side == "observer" else plan.executor
        key = side, place, control
        if key not in self._rows:
            if place.is_file:
                self._rows[key] = read_rows(place.path, side, self.settings.split)
            else:
                self._rows[key] = self._computed(side, plan, control)
        return self._rows[key]

    def _computed(self, side: Side, plan: Planned, control: Control | None) -> dict[str, Rows]:
        frozen = self._load(side, plan.observer if side == "observer" else plan.executor)
        splits: tuple[Split, ...] = ("train", self.settings.split)
        if control is None:
            frozen.record(splits)
            return {split: frozen.rows(split) for split in splits}
        watched: Sequence[str] = ()
        if control == "unshared_camera":
            watched = [self._load("observer", plan.observer).watched]
        return {split: frozen.altered(control, split, watched) for split in splits}

    def _load(self, side: Side, place: Place) -> Frozen:
        if (side, place) not in self._frozen:
            self._frozen[side, place] = Frozen.load(
                side, place.path, self.settings.split, self.device, place.overrides
            )
        return self._frozen[side, place]


def _difference(ours: Frozen, theirs: Frozen) -> str:
    """The first thing that differs, for a message."""
    a, b = ({"source": f.recipe.source.name, **f.source.fingerprint()} for f in (ours, theirs))
    key = next(k for k in (*a, *b) if a.get(k) != b.get(k))
    return f"{key}: {a.get(key)} and {b.get(key)}"
