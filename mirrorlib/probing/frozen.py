"""What is probed: an encoder of a checkpoint, or rows of a file, and the pairs that two make."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_model
from torch import Tensor, nn

from mirrorlib.assembly import check_data, executor_view, open_cache, recording_workers
from mirrorlib.data.cache import Cache
from mirrorlib.data.checksum import Identity
from mirrorlib.data.store import StoredEpisode
from mirrorlib.errors import UserError
from mirrorlib.evaluation.representations import (
    Alter,
    Represented,
    every_step,
    execute,
    load_representations,
    observe,
)
from mirrorlib.interfaces import Executor, Observer, Source, Split
from mirrorlib.plugins import installed
from mirrorlib.probing.controls import alteration
from mirrorlib.probing.names import Control
from mirrorlib.randomness import seeded
from mirrorlib.recipe import Recipe, load_recipe
from mirrorlib.registry import build_section
from mirrorlib.training.checkpoint import WEIGHTS

Side = Literal["observer", "executor"]
LETTERS = {"observer": "u", "executor": "e"}
_whole: dict[Path, tuple[Identity, str]] = {}
"""Files of demonstrations, which both sides and every plan look at: verified once."""


@dataclass(frozen=True)
class Rows:
    """One side of E episodes. x: (E, D) float32. names, instructions, tasks: E texts each."""

    x: Tensor
    names: list[str]
    instructions: list[str]
    tasks: list[str]


def paired(u: Rows, e: Rows, where: str) -> Represented:
    """The episodes that both sides have, in the observer's order. Raises UserError where they have
    none, name one twice, or disagree about an instruction."""
    for side, names in (("observer", u.names), ("executor", e.names)):
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(f"{where}: the {side} has two rows called {twice}")
    places = {name: i for i, name in enumerate(e.names)}
    rows = [i for i, name in enumerate(u.names) if name in places]
    if not rows:
        raise UserError(
            f"{where}: observer and executor have no episode in common (such as "
            f"{u.names[0]} and {e.names[0]}); probe two runs of one source"
        )
    theirs = [places[u.names[i]] for i in rows]
    names, instructions, tasks = (
        [column[i] for i in rows] for column in (u.names, u.instructions, u.tasks)
    )
    for name, ours, told in zip(
        names, instructions, [e.instructions[i] for i in theirs], strict=True
    ):
        if ours != told:
            raise UserError(
                f"{where}: {name} is {ours!r} to the observer, {told!r} to the executor"
            )
    labels = [_numbers(column) for column in (names, instructions, tasks)]
    return Represented(u.x[rows], e.x[theirs], torch.stack(labels, 1), names, instructions, tasks)


def read_rows(path: Path, side: Side, split: str) -> dict[str, Rows]:
    """The training rows and those of `split` in a file: .safetensors as every run leaves it, or
    .npz with `<split>_u` or `<split>_e` (N, D), `<split>_instructions` (N,) text and, where there
    are, `<split>_names` and `<split>_tasks`; without names, row i of one side is the partner of
    row i of the other, and there must be as many. Raises UserError."""
    if path.suffix == ".npz":
        return {each: _read_npz(path, LETTERS[side], each) for each in ("train", split)}
    found = load_representations(path)
    for each in ("train", split):
        if each not in found:
            raise UserError(f"{path}: holds no split {each!r}, but {', '.join(found) or 'none'}")
    return {
        each: Rows(
            getattr(found[each], LETTERS[side]),
            found[each].names,
            found[each].instructions,
            found[each].tasks,
        )
        for each in ("train", split)
    }


def _read_npz(path: Path, letter: str, split: str) -> Rows:
    try:
        with np.load(path, allow_pickle=False) as file:
            for needed in (f"{split}_{letter}", f"{split}_instructions"):
                if needed not in file:
                    raise UserError(f"{path}: holds no array {needed!r}, but {', '.join(file)}")
            x = torch.from_numpy(file[f"{split}_{letter}"].astype(np.float32))
            instructions = [str(text) for text in file[f"{split}_instructions"]]
            count, texts = len(x), {}
            for name, standing_in in (
                ("names", [f"{split}/row {i} of {count}" for i in range(count)]),
                ("tasks", [""] * count),
            ):
                key = f"{split}_{name}"
                texts[name] = [str(t) for t in file[key]] if key in file else standing_in
    except (OSError, EOFError, BadZipFile, ValueError, TypeError) as error:
        raise UserError(f"{path}: holds no representations ({error})") from error
    if x.ndim != 2 or any(len(t) != count for t in (instructions, *texts.values())):
        raise UserError(
            f"{path}: {split}_{letter} must be (N, D), with as many {split}_instructions, "
            f"{split}_names and {split}_tasks as it has rows"
        )
    return Rows(x, texts["names"], instructions, texts["tasks"])


@dataclass(frozen=True)
class Frozen:
    """One encoder of a checkpoint, and the demonstrations as its recipe keeps them."""

    side: Side
    recipe: Recipe
    source: Source
    cache: Cache
    encoder: Observer | Executor
    device: torch.device

    @classmethod
    def load(
        cls,
        side: Side,
        checkpoint: Path,
        split: Split,
        device: torch.device,
        overrides: Sequence[str] = (),
    ) -> Self:
        """overrides: of the checkpoint's recipe. Raises UserError."""
        settled = ("evaluation.simulator=null", "train.precision=null", f"evaluation.split={split}")
        recipe = load_recipe(checkpoint / "recipe.yaml", [*settled, *overrides])
        installed().require(recipe.offers)
        with seeded(recipe.seed, "source"):
            source: Source = build_section("source", recipe.source)
        if not source.keys(split):
            raise UserError(
                f"split is {split}, but {checkpoint} learnt from a source without {split} episodes"
            )
        check_data(recipe, source)
        properties = executor_view(recipe, source)
        with seeded(recipe.seed, side):
            encoder = build_section(side, getattr(recipe, side), vars(properties))
        _load_encoder(checkpoint, side, encoder)
        cache = open_cache(recipe, source, properties)
        cache.whole = _whole
        return cls(side, recipe, source, cache, encoder.to(device), device)

    @property
    def fingerprint(self) -> str:
        """What decides a scene's demonstration."""
        told = {"source": self.recipe.source.name, **self.source.fingerprint()}
        return json.dumps(told, sort_keys=True, default=str)

    @property
    def watched(self) -> str:
        """The camera whose clips stand for episodes."""
        return self.recipe.data.clip_cameras[0]

    def record(self, splits: Sequence[Split]) -> None:
        """Records what the cache lacks of the splits."""
        with self.cache.lacking(splits=splits) as missing:
            self.cache.record(missing, recording_workers(self.recipe))

    def rows(self, split: Split, alter: Alter | None = None, title: str = "") -> Rows:
        """The representations of a split's episodes. alter: what the executor is fed instead.
        Raises UserError where there is none."""
        episodes = self.cache.episodes(split)
        if not episodes:
            raise self.cache.emptiness(split)
        title = f"{LETTERS[self.side]} {split} {title}".strip()
        if isinstance(self.encoder, Observer):
            frames, camera = self.recipe.data.clip_frames, self.watched
            x = observe(
                self.encoder, episodes, clip_frames=frames, camera=camera, device=self.device,
                title=title,
            )  # fmt: skip
        else:
            x = execute(self.encoder, episodes, device=self.device, alter=alter, title=title)
        return _described(x, episodes)

    def altered(self, control: Control, split: Split, watched: Sequence[str]) -> Rows:
        """The representations under a control of `names.ALTERED`."""
        reference = every_step(self.cache.episodes("train")[0])
        alter = alteration(control, reference, self.cache.layout.step_cameras, watched)
        return self.rows(split, alter, control)


def _described(x: Tensor, episodes: Sequence[StoredEpisode]) -> Rows:
    return Rows(
        x,
        [episode.name for episode in episodes],
        [episode.instruction for episode in episodes],
        [episode.task for episode in episodes],
    )


def _load_encoder(checkpoint: Path, side: Side, encoder: nn.Module) -> None:
    """Raises UserError where the checkpoint's weights do not fit."""
    try:
        part = nn.ModuleDict({side: encoder})
        missing, _ = load_model(part, checkpoint / WEIGHTS, strict=False)
        if missing:
            raise ValueError(f"{len(missing)} are missing, such as {sorted(missing)[0]}")
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise UserError(
            f"{checkpoint}: weights of the {side} do not load ({' '.join(lines[:2])}); was it "
            "another recipe's?"
        ) from error


def _numbers(values: Sequence[str]) -> Tensor:
    """Equal numbers for equal texts."""
    order = {value: i for i, value in enumerate(sorted(set(values)))}
    return torch.tensor([order[value] for value in values])
