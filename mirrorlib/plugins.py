"""Discovery of plugins: every entry point of the group `mirrorlib`, each in isolation.

pluggy's own loop drops a second distribution that uses the same entry-point name, accepts
misspelled hooks and lets one failing import end the program. Here each entry point has a plugin
manager of its own, so that no plugin can affect another, and becomes a row that says what it
offers or why it does not. The result does not depend on the order of installation.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, distributions
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import pluggy

from mirrorlib import hookspecs
from mirrorlib.errors import UserError, suggestion
from mirrorlib.hookspecs import API, HOOK_OF_KIND, KINDS, Check, Component, Kind

if TYPE_CHECKING:
    from mirrorlib.registry import Offer

GROUP = "mirrorlib"
DISABLE = "MIRRORLIB_DISABLE"

Status = Literal[
    "ok", "disabled", "incompatible", "broken", "bad signature", "unknown hook", "conflict"
]
STATUSES: tuple[Status, ...] = get_args(Status)
T = TypeVar("T")
HOOKS = frozenset(name for name in vars(hookspecs) if name.startswith("mirrorlib_"))


@dataclass(frozen=True)
class Row:
    """One entry point and what became of it.

    status: `ok`, `unknown hook` and `conflict` offer their components; the others offer none.
    reason: one line, empty where all is well.
    """

    distribution: str
    version: str
    entry_point: str
    status: Status
    reason: str = ""
    components: tuple[tuple[Kind, Component], ...] = ()
    manager: pluggy.PluginManager | None = field(default=None, repr=False, compare=False)

    def describe(self) -> str:
        """What stands in the way, such as `mirrorlib-x (broken: ImportError: no module y)`."""
        detail = f"{self.status}: {self.reason}" if self.reason else self.status
        return f"{self.distribution} ({detail})"


@dataclass(frozen=True)
class Examination:
    """A check of a distribution, run when asked. fault: why the plugin cannot name its checks."""

    distribution: str
    check: Check
    fault: str | None = None

    def problem(self) -> str | None:
        """None where all is well, else one line; what the check raises is that line."""
        if self.fault is not None:
            return self.fault
        try:
            found = resolve(self.check.run)()
        except (Exception, SystemExit) as error:
            return summary(error)
        return None if found is None else " ".join(str(found).split())


class Plugins:
    """The rows of all plugins, in order of distribution and entry point."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        ordered = sorted(rows, key=lambda row: (normalised(row.distribution), row.entry_point))
        self.rows = tuple(_mark_conflicts(ordered))

    def diagnose(self, distributions: Iterable[str]) -> Iterator[Examination]:
        """The checks of these distributions, each still to be run."""
        wanted = {normalised(name) for name in distributions}
        for row in self.rows:
            if row.manager is None or normalised(row.distribution) not in wanted:
                continue
            try:
                checks = list(_returned(row.manager, "mirrorlib_checks", Check))
            except (Exception, SystemExit) as error:
                failed = Check("mirrorlib_checks", run="")
                yield Examination(row.distribution, failed, fault=summary(error))
                continue
            for check in checks:
                yield Examination(row.distribution, check)

    def require(self, offers: Iterable[Offer], *, slow: bool = True) -> None:
        """Run the checks that what is offered needs; the slow ones only where slow=True and the
        others find nothing.

        Raises UserError where this machine lacks something that one of them needs.
        """
        used = list(offers)
        names = {f"{one.kind} {one.component.name}" for one in used}
        needed = [
            one
            for one in self.diagnose({one.distribution for one in used})
            if one.check.needed_by is None or names & set(one.check.needed_by)
        ]
        for slowness in (False, True) if slow else (False,):
            problems = [
                f"{one.distribution}: {one.check.name}: {problem}"
                for one in needed
                if one.check.slow == slowness and (problem := one.problem()) is not None
            ]
            if problems:
                raise UserError(*problems)

    def notify(self, event: str, **arguments: Any) -> None:
        """Call the hook `mirrorlib_<event>` of every plugin, such as `run_started`.

        What a plugin raises becomes one line on stderr.
        """
        hook = f"mirrorlib_{event}"
        assert hook in HOOKS, hook
        for row in self.rows:
            if row.manager is None:
                continue
            try:
                getattr(row.manager.hook, hook)(**arguments)
            except (Exception, SystemExit) as error:
                problem = f"{row.distribution} failed in {hook}: {summary(error)}"
                print(f"mirrorlib: warning: {problem}", file=sys.stderr)


@cache
def installed(enabled: bool = True) -> Plugins:
    """The plugins of this environment, discovered once. enabled=False: none."""
    return discover() if enabled else Plugins()


def notify(event: str, **arguments: Any) -> None:
    """Tell the installed plugins of an event; see `Plugins.notify`."""
    installed().notify(event, **arguments)


def discover() -> Plugins:
    """Load every installed plugin but those that MIRRORLIB_DISABLE names by distribution."""
    return Plugins(_rows())


def normalised(distribution: str) -> str:
    """A distribution's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", distribution.strip()).lower()


def summary(error: BaseException) -> str:
    """An exception on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def resolve(path: str) -> Any:
    """What an import string "module:name" stands for. Raises whatever the import raises."""
    module, _, name = path.partition(":")
    return attrgetter(name)(import_module(module))


class _Refused(Exception):
    """A plugin that cannot be used: its status and the reason."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def _rows() -> Iterator[Row]:
    """A row an entry point. Of a distribution found twice on the path, the first counts."""
    disabled = {normalised(name) for name in os.environ.get(DISABLE, "").split(",")}
    seen = set()
    for distribution in distributions():
        # Most distributions never mention the group: their metadata is not parsed.
        if GROUP not in (distribution.read_text("entry_points.txt") or ""):
            continue
        try:
            metadata = distribution.metadata  # parsed anew each time it is asked for
            name, version = metadata["Name"], metadata["Version"]
            points = [point for point in distribution.entry_points if point.group == GROUP]
        except Exception as error:
            where = f"metadata in {distribution.locate_file('')}"
            yield Row("unknown", "unknown", "", "broken", f"{where}: {summary(error)}")
            continue
        if points and normalised(name) not in seen:
            seen.add(normalised(name))
            for point in points:
                row = Row(name, version, point.name, "ok")
                if normalised(name) in disabled:
                    yield replace(row, status="disabled", reason=f"named in {DISABLE}")
                else:
                    yield _load(row, point)


def _load(row: Row, point: EntryPoint) -> Row:
    try:
        plugin = point.load()
        manager = pluggy.PluginManager("mirrorlib")
        manager.add_hookspecs(hookspecs)
        unknown = _unknown_hooks(manager, plugin)
        manager.register(plugin, name=point.name)
        offered = tuple(_components(manager))
    except _Refused as refused:
        return replace(row, status=refused.status, reason=str(refused))
    except pluggy.PluginValidationError as error:
        return replace(row, status="bad signature", reason=_signature_problem(error))
    except (Exception, SystemExit) as error:
        return replace(row, status="broken", reason=summary(error))
    row = replace(row, components=offered, manager=manager)
    return replace(row, status="unknown hook", reason=unknown) if unknown else row


def _unknown_hooks(manager: pluggy.PluginManager, plugin: Any) -> str:
    """One line on implementations of hooks that do not exist; refuses hooks left unmarked."""
    problems = []
    for name in sorted(dir(plugin)):
        options = manager.parse_hookimpl_opts(plugin, name)
        if options is None:
            if name in HOOKS and inspect.isroutine(getattr(plugin, name)):
                raise _Refused("broken", f"{name} lacks the decorator @hookimpl")
            continue
        hook = options.get("specname") or name
        if hook not in HOOKS:
            problems.append(f"{hook} is no hook{suggestion(hook, HOOKS)}")
    return "; ".join(problems)


def _signature_problem(error: pluggy.PluginValidationError) -> str:
    found = re.search(r"Argument\(s\) (\{.*?\}) are declared", str(error))
    hook = re.search(r"hook '(\w+)'", str(error))
    if not (found and hook):
        return summary(error)
    names = ", ".join(sorted(re.findall(r"'(\w+)'", found[1])))
    return f"{hook[1]} does not take {names}; leave it out"


def _components(manager: pluggy.PluginManager) -> Iterator[tuple[Kind, Component]]:
    for kind in KINDS:
        for component in _returned(manager, HOOK_OF_KIND[kind], Component):
            if component.api != API:
                written = f"{kind} {component.name!r} is written for version {component.api}"
                advice = "upgrade the plugin" if component.api < API else "upgrade mirrorlib"
                raise _Refused(
                    "incompatible", f"{written} of the interfaces, this is version {API}: {advice}"
                )
            _refuse_malformed(kind, component)
            yield kind, component


def _returned(manager: pluggy.PluginManager, hook: str, kind: type[T]) -> Iterator[T]:
    for result in getattr(manager.hook, hook)():
        if not isinstance(result, list | tuple) or not all(isinstance(r, kind) for r in result):
            raise _Refused("broken", f"{hook} must return a list of {kind.__name__}")
        yield from result


def _refuse_malformed(kind: Kind, component: Component) -> None:
    what = f"{kind} {component.name!r}"
    if not re.fullmatch(r"[\w.-]+", component.name):
        raise _Refused("broken", f"{what} has a name that no recipe can write")
    for label in ("build", "config"):
        value = getattr(component, label)
        if not re.fullmatch(r"[\w.]+:[\w.]+", value):
            raise _Refused("broken", f'{what}: {label} is {value!r}, not "module:name"')


def _mark_conflicts(rows: list[Row]) -> Iterator[Row]:
    """Rows that share a component with another: usable as long as no recipe is ambiguous."""
    holders: defaultdict[tuple[Kind, str], list[str]] = defaultdict(list)
    for row in rows:
        for kind, component in row.components:
            holders[kind, component.name].append(row.distribution)
    for row in rows:
        reasons = []
        for (kind, name), count in Counter((k, c.name) for k, c in row.components).items():
            own = normalised(row.distribution)
            others = sorted({d for d in holders[kind, name] if normalised(d) != own})
            if others:
                shared = f"{kind} {name!r} is also in {', '.join(others)}"
                reasons.append(f"{shared}: write {row.distribution}:{name}")
            elif count > 1 or len(holders[kind, name]) > 1:
                reasons.append(f"{kind} {name!r} is offered twice by {row.distribution}")
        yield replace(row, status="conflict", reason="; ".join(reasons)) if reasons else row
