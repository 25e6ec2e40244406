"""A probe from its settings to its tables."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from tqdm import tqdm

from mirrorlib.assembly import agree
from mirrorlib.errors import UserError
from mirrorlib.evaluation.representations import FILE, Represented, save_representations
from mirrorlib.files import write_whole, writing
from mirrorlib.launcher import PATIENCE
from mirrorlib.probing.fitting import Maps
from mirrorlib.probing.measure import REAL, Budget, Variant, measure
from mirrorlib.probing.names import ALTERED, Control
from mirrorlib.probing.settings import ProbeSettings
from mirrorlib.probing.sources import AS_TRAINED, Planned, Representations, outcomes_of, planned
from mirrorlib.probing.tables import tables
from mirrorlib.processes import own_cores
from mirrorlib.provenance import git_sha
from mirrorlib.tracking import Tracker, track
from mirrorlib.training.checkpoint import INDEX, recorded_step
from mirrorlib.yamlfile import write_yaml

RESULT, TABLE = "probe.json", "probe.md"


@dataclass(frozen=True)
class Probed:
    """What a probe leaves. facts: what else a reader must know."""

    settings: ProbeSettings
    folder: Path
    variants: list[Variant]
    facts: dict[str, str]

    def text(self) -> str:
        """Everything as Markdown."""
        parts = [f"# {self.settings.name}"]
        parts.append("\n".join(f"{name}: {value}" for name, value in self.facts.items()))
        for variant in self.variants:
            parts.append(f"## {variant.site}, {variant.checkpoint}")
            parts.append(tables(variant, self.settings.maps.seeds, self.settings.permutations))
        return "\n\n".join(parts) + "\n"

    def write(self) -> list[Path]:
        """Writes `probe.json` and `probe.md`."""
        content = {
            "settings": self.settings.resolved(),
            "facts": self.facts,
            "variants": [asdict(variant) for variant in self.variants],
        }
        paths = [self.folder / RESULT, self.folder / TABLE]
        with writing(self.folder):
            write_whole(paths[0], json.dumps(content, indent=1) + "\n")
            write_whole(paths[1], self.text())
        return paths


def probe(settings: ProbeSettings) -> Path:
    """Probes as the settings say. Under a launcher every process calls this; the main one works.

    Returns the folder of the results. Raises UserError.
    """
    accelerator = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)])
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ
    if launched and accelerator.device.type == "cpu" and torch.get_num_threads() == 1:
        torch.set_num_threads(own_cores())
    return agree(accelerator, lambda: _probe(settings, accelerator.device))


def _probe(settings: ProbeSettings, device: torch.device) -> Path:
    plans = planned(settings)
    outcomes, told = outcomes_of(settings, plans[0].executor)
    folder = _claim(settings)
    with writing(folder):
        write_whole(folder / "probe.yaml", write_yaml(settings.resolved()))
    tracker = Tracker(
        folder, settings.experiment, folder.name, _tags(settings, folder), settings.resolved()
    )
    with track(tracker) as log:
        probed = Probed(settings, folder, [], {"outcomes": told})
        source = Representations(settings, device)
        for plan in plans:
            variant = _measured(settings, plan, source, probed, outcomes)
            log(dict(_metrics(variant)), _step(plan))
            written = probed.write()
        for path in written:
            tracker.artifact(path)
        tracker.flush()
        print(f"\n{probed.text()}\nin {folder}; see all runs: mirrorlib ui", flush=True)
    return folder


def _measured(
    settings: ProbeSettings,
    plan: Planned,
    source: Representations,
    probed: Probed,
    outcomes: dict[str, bool],
) -> Variant:
    """Measures the models as they are, then every control, into a variant of `probed`."""
    budget = Budget(
        Maps(**{k: v for k, v in settings.maps.model_dump().items() if k != "seeds"}),
        settings.maps.seeds,
        settings.levels,
        settings.permutations,
    )
    variant = Variant(plan.site, plan.checkpoint)
    probed.variants.append(variant)
    controls: tuple[Control | None, ...] = (None, *settings.controls)
    fits = len(controls) * budget.seeds * len(budget.levels)
    with tqdm(total=fits, desc=f"probing {plan.site}", unit="fit") as bar:
        for control in controls:
            pairs = source.pairs(plan, control)
            if isinstance(pairs, str):
                variant.left_out[str(control)] = pairs
                continue
            if control and (reason := source.left_out(plan, control, *pairs)):
                variant.left_out[control] = reason
                continue
            if control is None or control in ALTERED:
                _save(probed.folder, plan, control, settings.split, pairs)
            if control is None and plan.site == AS_TRAINED and plan.last:
                _tell(probed, *pairs)
            measure(control, *pairs, budget, variant, outcomes if plan.last else {}, bar.update)
    return variant


def _tell(probed: Probed, train: Represented, test: Represented) -> None:
    settings = probed.settings
    more = {
        "observer": settings.observer,
        "executor": settings.executor,
        "episodes": f"{len(train.names)} to fit, {len(test.names)} of the {settings.split} split "
        f"to read, {len(set(test.instructions))} instructions",
    }
    probed.facts.update(more)


def _save(
    folder: Path,
    plan: Planned,
    control: Control | None,
    split: str,
    pairs: tuple[Represented, Represented],
) -> None:
    parts = [control, *((plan.site,) if plan.site != AS_TRAINED else ())]
    parts += [] if plan.last else [plan.checkpoint]
    suffix = "".join(f"-{re.sub(r'[^A-Za-z0-9._-]', '_', part)}" for part in parts if part)
    path = folder / FILE
    with writing(folder):
        save_representations(
            path.with_stem(path.stem + suffix), {"train": pairs[0], split: pairs[1]}
        )


def _tags(settings: ProbeSettings, folder: Path) -> dict[str, str]:
    tags = {
        "probe": settings.name,
        "observer_run": settings.observer,
        "executor_run": settings.executor,
        "run_folder": str(folder),
    }
    sha = git_sha()
    return tags if sha is None else tags | {"git_sha": sha}


def _step(plan: Planned) -> int:
    return recorded_step(plan.executor.path) if (plan.executor.path / INDEX).exists() else 0


def _metrics(variant: Variant) -> Iterator[tuple[str, float]]:
    """`probe/<control>/<level>/<question>/recall_at_1_u2e` and the like; `site` before the control
    where it is not the one of training."""
    prefix = "probe" if variant.site == AS_TRAINED else f"probe/{variant.site.replace('=', '.')}"
    for row in variant.rows:
        for read, recalls in row.recalls.items():
            for name, recall in recalls.items():
                key = f"{prefix}/{row.control}/{row.level}/{read}/{name}"
                yield key, recall.value
                if recall.null_95 is not None:
                    yield f"{key}_null_95", recall.null_95
    for control, measures in variant.similarities.items():
        for name, similarity in measures.items():
            yield f"{prefix}/{control}/{name}", similarity.value
    for level, questions in variant.success.items():
        for asked, scores in questions.items():
            for name, split in scores.items():
                if split.difference is not None:
                    yield f"{prefix}/{REAL}/{level}/{asked}/{name}_solved", split.difference


def _claim(settings: ProbeSettings) -> Path:
    """The first folder that is free. Raises UserError where none can be made."""
    root = Path(settings.output)
    try:
        root.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            path = root / (settings.name if number == 1 else f"{settings.name}-{number}")
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                return path
    except OSError as error:
        raise UserError(
            f"{root}: results cannot be kept there ({error.strerror}); set output"
        ) from error
    raise AssertionError("the numbers have no end")
