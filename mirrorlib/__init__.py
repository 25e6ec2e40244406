"""Mirror neurons in a robot: action understanding and embodied execution, trained jointly.

Importing this package never imports torch; what needs it is imported when first used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirrorlib.errors import UserError
from mirrorlib.hookspecs import Check, Component, Kind, hookimpl

if TYPE_CHECKING:
    from mirrorlib import alignment, interfaces
    from mirrorlib.recipe import Recipe
    from mirrorlib.reporting.report import Report
    from mirrorlib.training.joint import Joint

__version__ = "0.1.0"

__all__ = [
    "Check",
    "Component",
    "UserError",
    "__version__",
    "alignment",
    "build",
    "components",
    "hookimpl",
    "interfaces",
    "load",
    "run",
]


def build(kind: Kind, name: str, **config: Any) -> Any:
    """Build one component of the installed plugins, outside any recipe.

    `mirrorlib.build("objective", "infonce", temperature=0.1)(u, e).value` is a loss. Raises
    UserError with every problem of the configuration, ComponentError where the name is unknown,
    ambiguous, or its plugin broken.
    """
    from mirrorlib.registry import installed

    return installed().build(kind, name, **config)


def components(kind: Kind) -> list[Component]:
    """What the installed plugins offer of one kind, in order of name."""
    from mirrorlib.registry import installed

    return [offer.component for offer in installed().offers(kind)]


def load(path: str | PathLike[str]) -> Joint:
    """A trained model, in evaluation mode on the CPU: what `mirrorlib export` wrote, a run's
    folder or a checkpoint. `mirrorlib.load(path).observer.encode_video(frames)` sees.

    An export needs neither the run's demonstrations nor their simulator. Raises UserError.
    """
    from mirrorlib import export

    return export.load(Path(path))


def run(
    recipe: Recipe | str | PathLike[str] | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    plugins: bool = True,
) -> Report:
    """Record, train and evaluate as the recipe says; `python -m mirrorlib.run` does the same.

    recipe: a file, a mapping, or a recipe already loaded. overrides: `a.b=c`, as on the command
    line. plugins=False: as if no plugin were installed. Raises UserError.
    """
    from mirrorlib import pipeline
    from mirrorlib.recipe import load_recipe
    from mirrorlib.registry import installed

    return pipeline.run(load_recipe(recipe, overrides, registry=installed(plugins)))


def __getattr__(name: str) -> Any:
    if name in ("alignment", "interfaces"):
        return import_module(f"mirrorlib.{name}")
    raise AttributeError(f"module 'mirrorlib' has no attribute {name!r}")
