"""The hooks a plugin may implement.

A plugin is a distribution with an entry point in the group `mirrorlib` that names a module (or
object) holding functions marked with `mirrorlib.hookimpl`. Hooks return components, which name
their code by import strings, so that listing plugins never imports torch:

    from mirrorlib import Component, hookimpl

    @hookimpl
    def mirrorlib_objectives():
        return [Component("margin", build="my_plugin.loss:Margin", config="my_plugin.loss:Config",
                          summary="pulls pairs within a margin")]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import pluggy

hookspec = pluggy.HookspecMarker("mirrorlib")
hookimpl = pluggy.HookimplMarker("mirrorlib")

Kind = Literal["observer", "executor", "projector", "objective", "text", "source", "simulator"]
KINDS: tuple[Kind, ...] = get_args(Kind)
API = 1


@dataclass(frozen=True)
class Component:
    """One thing a recipe can name.

    name: as written in a recipe. build: "module:callable", called with an instance of the
    configuration. config: "module:Model", a pydantic model with `extra="forbid"`.
    summary: one line for `mirrorlib plugins`. api: the version of the interfaces it was written
    against.
    """

    name: str
    build: str
    config: str
    summary: str
    api: int = API


@dataclass(frozen=True)
class Check:
    """A row of diagnosis.

    run: "module:callable" without arguments; returns None where all is well, else one line that
    says what mends it. needed_by: the components, such as "simulator rlbench", that cannot do
    without it: only recipes that name one of them are refused; None: all of the distribution;
    empty: none, `doctor` alone shows it. slow: takes more than a moment, such as importing torch
    or drawing: `mirrorlib check` leaves it out.
    """

    name: str
    run: str
    needed_by: tuple[str, ...] | None = None
    slow: bool = False


class RunInfo:
    """What the watching hooks are told of a run: `name`, `folder`, `recipe` (resolved, plain)."""

    def __init__(self, name: str, folder: str, recipe: Mapping[str, Any]) -> None:
        self.name = name
        self.folder = folder
        self.recipe = recipe


@hookspec
def mirrorlib_observers() -> Sequence[Component]:  # type: ignore[empty-body]
    """Observers: `build(config) -> mirrorlib.interfaces.Observer`."""


@hookspec
def mirrorlib_executors() -> Sequence[Component]:  # type: ignore[empty-body]
    """Executors: `build(config) -> mirrorlib.interfaces.Executor`."""


@hookspec
def mirrorlib_projectors() -> Sequence[Component]:  # type: ignore[empty-body]
    """Projectors: `build(config) -> mirrorlib.interfaces.Projector`. The core fills in the
    configuration's `input_dim`."""


@hookspec
def mirrorlib_objectives() -> Sequence[Component]:  # type: ignore[empty-body]
    """Objectives: `build(config) -> mirrorlib.interfaces.Objective`."""


@hookspec
def mirrorlib_texts() -> Sequence[Component]:  # type: ignore[empty-body]
    """Text towers: `build(config) -> mirrorlib.interfaces.Text`."""


@hookspec
def mirrorlib_sources() -> Sequence[Component]:  # type: ignore[empty-body]
    """Sources of demonstrations: `build(config) -> mirrorlib.interfaces.Source`."""


@hookspec
def mirrorlib_simulators() -> Sequence[Component]:  # type: ignore[empty-body]
    """Simulators: `build(config) -> mirrorlib.interfaces.Simulator`."""


@hookspec
def mirrorlib_checks() -> Sequence[Check]:  # type: ignore[empty-body]
    """Rows of diagnosis, such as a graphics library that must be installed."""


@hookspec
def mirrorlib_run_started(run: RunInfo) -> None:
    """Told before training starts. Cannot alter the run; an exception is reported, not raised."""


@hookspec
def mirrorlib_evaluated(run: RunInfo, report: Mapping[str, float]) -> None:
    """Told the metrics after evaluation."""


@hookspec
def mirrorlib_run_finished(run: RunInfo, status: str) -> None:
    """Told at the end: status is `finished`, `failed` or `interrupted`."""


HOOK_OF_KIND: Mapping[Kind, str] = {kind: f"mirrorlib_{kind}s" for kind in KINDS}
Hook = Callable[[], Sequence[Component]]
