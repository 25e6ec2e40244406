"""Trained models to keep, share and load: weights, recipe, card, and what they need of the data."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from mirrorlib.assembly import executor_view, joint_of
from mirrorlib.data.pairing import Pairing
from mirrorlib.errors import UserError
from mirrorlib.files import sha256, write_whole
from mirrorlib.interfaces import DataProperties, Source
from mirrorlib.plugins import installed
from mirrorlib.randomness import seeded
from mirrorlib.recipe import Recipe, dump_recipe, load_recipe, load_sections
from mirrorlib.registry import build_section
from mirrorlib.reporting.card import MODEL_KINDS, Provenance, model_card
from mirrorlib.reporting.report import Report
from mirrorlib.run_folder import RECIPE, REPORT
from mirrorlib.sections import WeightsSection
from mirrorlib.training.checkpoint import (
    CHECKPOINTS,
    WEIGHTS,
    checkpoints,
    find_checkpoint,
    load_weights,
    recorded_code,
    recorded_step,
)
from mirrorlib.training.joint import Joint

FORMAT = 1
INDEX, CARD = "export.json", "README.md"


def export(run: Path, out: Path) -> Path:
    """Writes a run's last whole checkpoint, or the checkpoint named, into a new folder.

    `out` then holds model.safetensors, recipe.yaml, README.md (the model card), export.json and,
    where this very checkpoint was evaluated, report.json; it is there whole or not at all. Returns
    it. Raises UserError where it holds something already, and where nothing can be exported.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is not empty; name a folder that is new")
    checkpoint = find_checkpoint(run)
    folder = checkpoint.parent.parent
    evaluated = (
        checkpoint.parent.name == CHECKPOINTS
        and checkpoints(checkpoint.parent)[0] == checkpoint
        and (folder / REPORT).exists()
    )
    recipe = load_recipe((folder if evaluated else checkpoint) / RECIPE)
    with seeded(recipe.seed, "source"):
        source: Source = build_section("source", recipe.source)
    properties = executor_view(recipe, source)
    report = Report.read(folder) if evaluated else None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as made:
            inner = Path(made) / out.name
            inner.mkdir()
            write_export(inner, checkpoint, recipe, properties, report)
            inner.replace(out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); make room") from error
    return out


def write_export(
    out: Path, checkpoint: Path, recipe: Recipe, properties: DataProperties, report: Report | None
) -> None:
    """Fills an empty folder, and loads what it wrote. report: None where the checkpoint was not
    evaluated. Raises UserError, OSError."""
    shutil.copyfile(checkpoint / WEIGHTS, out / WEIGHTS)
    write_whole(out / RECIPE, dump_recipe(recipe))
    digests = {name: sha256(out / name) for name in (WEIGHTS, RECIPE)}
    step, code = recorded_step(checkpoint), recorded_code(checkpoint)
    index = {
        "format": FORMAT,
        "step": step,
        "properties": asdict(properties),
        "code": asdict(code),
        "sha256": digests,
    }
    write_whole(out / INDEX, json.dumps(index, indent=1) + "\n")
    if report is not None:
        replace(report, folder=out).write()
    aligned = load(out).objective.uses_projectors
    today = datetime.now(UTC).date().isoformat()
    provenance = Provenance(step, aligned, today, code, digests[WEIGHTS])
    write_whole(out / CARD, model_card(recipe, report, provenance, out.name))


def load(path: Path) -> Joint:
    """An exported model, or a run's last whole checkpoint, or the checkpoint named, in evaluation
    mode on the CPU.

    An export needs the plugins of its observer, executor, projector and objective alone; a run or
    checkpoint that of its source as well. Raises UserError, in one line.
    """
    if (path / INDEX).exists():
        properties = _properties(path, _index(path))
        joint = _built(path / RECIPE, properties)
        load_weights(path, joint)
    else:
        checkpoint = _checkpoint(path)
        recipe = load_recipe(checkpoint / RECIPE)
        with seeded(recipe.seed, "source"):
            source: Source = build_section("source", recipe.source)
        joint = _built(checkpoint / RECIPE, executor_view(recipe, source))
        load_weights(checkpoint, joint)
    return joint.eval()


def _checkpoint(path: Path) -> Path:
    """Raises UserError where the folder is neither an export nor a run or checkpoint."""
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; name an exported model, a run or a checkpoint")
    if (path / CARD).exists() and not (path / CHECKPOINTS).exists():
        raise UserError(f"{path}: {INDEX} is missing; export the model again")
    return find_checkpoint(path)


def _index(path: Path) -> Mapping[str, Any]:
    """What `export.json` says, its files being as it says. Raises UserError."""
    try:
        index: Mapping[str, Any] = json.loads((path / INDEX).read_text())
        if index["format"] != FORMAT:
            raise UserError(f"{path}: exported by another version of mirrorlib; export it again")
        for name in (WEIGHTS, RECIPE):
            if sha256(path / name) != index["sha256"][name]:
                raise UserError(f"{path}: {name} is not what was exported; export the model again")
    except FileNotFoundError as error:
        name = Path(error.filename).name
        raise UserError(f"{path}: {name} is missing; export the model again") from error
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: {INDEX} is damaged; export the model again") from error
    return index


def _properties(path: Path, index: Mapping[str, Any]) -> DataProperties:
    try:
        found = index["properties"]
        cameras, workspace = tuple(found["cameras"]), tuple(found["workspace"])
        return DataProperties(cameras, int(found["proprioception_dim"]), workspace)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: {INDEX} is damaged; export the model again") from error


def _built(path: Path, properties: DataProperties) -> Joint:
    """The model that a resolved recipe names, its other sections unread."""
    sections, values = load_sections(path, MODEL_KINDS)
    installed().require([section.offer for section in sections.values()], slow=False)
    try:
        seed, pairing = int(values["seed"]), values["pairing"]
        weights = WeightsSection.model_validate(values["train"]["weights"])
        if pairing not in get_args(Pairing):
            raise ValueError(pairing)
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise UserError(f"{path}: is not a resolved recipe; export the model again") from error
    return joint_of(sections, properties, seed, weights, pairing)
