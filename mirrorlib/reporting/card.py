"""The model card: what a trained model is, how it was measured, and how it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mirrorlib.hookspecs import Kind
from mirrorlib.provenance import Code
from mirrorlib.recipe import Recipe
from mirrorlib.reporting.report import Report
from mirrorlib.yamlfile import write_yaml

MODEL_KINDS: tuple[Kind, ...] = ("observer", "executor", "projector", "objective")


@dataclass(frozen=True)
class Provenance:
    """step: optimiser steps trained. aligned: whether the objective uses projectors. exported:
    date. code: what trained it. sha256: of the weights."""

    step: int
    aligned: bool
    exported: str
    code: Code
    sha256: str


def model_card(recipe: Recipe, report: Report | None, provenance: Provenance, folder: str) -> str:
    """Markdown whose front matter model hubs read. report: None where this checkpoint was not
    evaluated. folder: the name that the card's example loads."""
    front = {
        "library_name": "mirrorlib",
        "license": "other",
        "pipeline_tag": "robotics",
        "tags": ["mirrorlib", "robotics", "video-understanding", "representation-alignment",
                 f"objective:{recipe.objective.name}"],
    }  # fmt: skip
    sections = (
        f"---\n{write_yaml(front)}---\n\n# {recipe.name}",
        _purpose(recipe, provenance.aligned),
        _use(recipe, folder),
        f"## Components\n\n{_components(recipe, provenance.aligned)}",
        f"## Training\n\n{_training(recipe, provenance.step)}",
        f"## Measured\n\n{_measured(recipe, report)}",
        _limits(recipe),
        f"## Provenance\n\n{_provenance(recipe, provenance)}",
    )
    return "\n\n".join(section.strip() for section in sections) + "\n"


def _purpose(recipe: Recipe, aligned: bool) -> str:
    trained = (
        "They were trained together, their representations u and e aligned by "
        f"{recipe.objective.name} within each {recipe.pairing} (arXiv 2509.21136)."
        if aligned
        else "They were trained side by side, without alignment: a baseline."
    )
    return (
        "An observer that understands a robot's actions in video and an executor that performs "
        f"them when told an instruction. {trained}"
    )


def _use(recipe: Recipe, folder: str) -> str:
    names = sorted(recipe.components[kind].offer.distribution for kind in MODEL_KINDS)
    return f"""## Use

Install {", ".join(("mirrorlib", *dict.fromkeys(names)))}; no simulator is needed.

```python
import mirrorlib
model = mirrorlib.load({folder!r})
seen = model.observer.encode_video(frames)  # frames (B, T, 3, H, W) uint8 -> (B, P)
```

Its cosine with `model.observer.encode_text(instructions)` recognises the action, and
`model.executor.act(observations, instructions)` acts. Set `license` above to what holds for the
demonstrations, and for pretrained weights if the model began from any."""


def _components(recipe: Recipe, aligned: bool) -> str:
    lines = ["| part | component | options |", "|------|-----------|---------|"]
    for kind in MODEL_KINDS:
        if kind == "projector" and not aligned:
            continue
        section = recipe.components[kind]
        options = _plain(section.options)
        lines.append(f"| {kind} | {section.name} of {section.offer.distribution} | {options} |")
    return "\n".join(lines)


def _plain(options: Mapping[str, Any]) -> str:
    """Names and values; of what was left null, the name."""
    return ", ".join(
        f"{name} ({_plain(value)})" if isinstance(value, Mapping)
        else name if value is None
        else f"{name} {' '.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in options.items()
    )  # fmt: skip


def _training(recipe: Recipe, step: int) -> str:
    options = _plain(recipe.source.options)
    weights = recipe.train.weights
    lines = (
        f"- source: {recipe.source.name} of {recipe.source.offer.distribution} ({options})",
        f"- clips of {recipe.data.clip_frames} frames, from {' '.join(recipe.data.clip_cameras)}",
        f"- {step} of {recipe.train.steps} steps, {recipe.batch.instructions} "
        f"instructions x {recipe.batch.episodes} episodes a batch, seed {recipe.seed}",
        f"- loss weights: observer {weights.observer:g}, executor {weights.executor:g}, "
        f"alignment {weights.alignment:g}",
    )
    return "\n".join(lines)


def _measured(recipe: Recipe, report: Report | None) -> str:
    if report is None:
        return "This checkpoint was not evaluated."
    return (
        f"On {recipe.evaluation.split} scenes, none seen in training:\n\n{report.results()}\n\n"
        "Intervals are Wilson's, over the scenes of this one training seed: they say nothing of "
        "how other seeds differ, and compare no two models."
    )


def _limits(recipe: Recipe) -> str:
    cameras = ", ".join(recipe.data.clip_cameras)
    return f"""## Limits

- It knows the scenes, instructions, robot and cameras ({cameras} for clips) of its demonstrations;
  nothing was measured beyond them, nor on a real robot.
- The executor is told the instruction that the observer learns to recognise. u and e of one
  instruction can therefore agree through the text alone: recall by instruction is no evidence
  that the two share an understanding; recall of the scene says more.
- Actions are keyframes and are carried out without any check of safety."""


def _provenance(recipe: Recipe, provenance: Provenance) -> str:
    code = provenance.code
    versions = ", ".join(f"{name} {version}" for name, version in code.versions.items())
    commit = f", commit {code.commit}" if code.commit else ""
    return "\n".join(
        (
            f"- trained by {versions}{commit}; exported {provenance.exported}",
            f"- recipe {recipe.sha}, whole in `recipe.yaml`",
            f"- model.safetensors, SHA-256 `{provenance.sha256}`",
        )
    )
