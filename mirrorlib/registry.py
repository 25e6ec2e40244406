"""Names to components: lookup, ambiguity, suggestions, and building."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from pydantic import BaseModel, ValidationError

from mirrorlib.errors import ComponentError, UserError, suggestion
from mirrorlib.hookspecs import KINDS, Component, Kind
from mirrorlib.plugins import Plugins, normalised, resolve, summary
from mirrorlib.plugins import installed as installed_plugins
from mirrorlib.validation import explain


@dataclass(frozen=True)
class Offer:
    """A component and the distribution that offers it."""

    kind: Kind
    component: Component
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.kind} {self.component.name!r} of {self.distribution} {self.version}"

    def config_model(self) -> type[BaseModel]:
        """The model of its options. Raises ComponentError where it does not import."""
        model = self._resolve(self.component.config)
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise ComponentError(f"{self}: {self.component.config} is no pydantic model")
        return model

    def build(self, config: BaseModel) -> Any:
        """The component itself. Raises ComponentError where its code does not import."""
        return self._resolve(self.component.build)(config)

    def _resolve(self, path: str) -> Any:
        try:
            return resolve(path)
        except (Exception, SystemExit) as error:
            raise ComponentError(f"{self}: cannot import {path}: {summary(error)}") from error


class Section(Protocol):
    """A recipe's section: what it names, and its options validated."""

    @property
    def offer(self) -> Offer: ...
    @property
    def config(self) -> BaseModel: ...


class Registry:
    """What a set of plugins offers, by kind and name."""

    def __init__(self, plugins: Plugins) -> None:
        self.plugins = plugins

    def offers(self, kind: Kind) -> list[Offer]:
        """Every component of a kind, in order of name, then distribution."""
        if kind not in KINDS:
            known = ", ".join(KINDS)
            raise ComponentError(f"no kind {kind!r}{suggestion(str(kind), KINDS)}; kinds: {known}")
        found = [
            Offer(kind, component, row.distribution, row.version)
            for row in self.plugins.rows
            for offered, component in row.components
            if offered == kind
        ]
        return sorted(found, key=lambda offer: offer.component.name)

    def find(self, kind: Kind, name: str) -> Offer:
        """The component that `name`, or `distribution:name`, stands for.

        Raises ComponentError where there is none, or more than one.
        """
        distribution, _, short = name.rpartition(":")
        named = [offer for offer in self.offers(kind) if offer.component.name == short]
        wanted = normalised(distribution)
        found = [o for o in named if not distribution or normalised(o.distribution) == wanted]
        if not found:
            raise ComponentError(self._unknown(kind, name))
        if len(found) > 1:
            raise ComponentError(_ambiguous(kind, short, found))
        return found[0]

    def config_model(self, kind: Kind, name: str) -> type[BaseModel]:
        """The model of a component's options. Raises ComponentError."""
        return self.find(kind, name).config_model()

    def build(self, kind: Kind, name: str, **config: Any) -> Any:
        """Validate the options and build. Raises UserError with every problem, ComponentError."""
        offer = self.find(kind, name)
        model = offer.config_model()
        try:
            validated = model.model_validate(config)
        except ValidationError as error:
            raise UserError(f"{kind} {name!r}: {_joined(error, model, config)}") from None
        return offer.build(validated)

    def _unknown(self, kind: Kind, name: str) -> str:
        offers = self.offers(kind)
        names = list(dict.fromkeys(offer.component.name for offer in offers))
        full = [f"{offer.distribution}:{offer.component.name}" for offer in offers]
        text = f"no {kind} named {name!r}"
        if names:
            text += f"; there are: {', '.join(names)}"
            text += suggestion(name, full if ":" in name else names)
        elif not self.plugins.rows:
            text += "; no plugin is installed: install one that offers it"
        else:
            text += f"; no installed plugin offers {kind}s"
        faulty = [row for row in self.plugins.rows if row.status not in ("ok", "conflict")]
        return text + "".join(f"; also installed: {row.describe()}" for row in faulty)


def build_section(kind: Kind, section: Section, known: Mapping[str, Any] | None = None) -> Any:
    """Build what a recipe's section names. Options that it declares and the recipe left null are
    taken from `known`, whose other entries are ignored. Raises UserError."""
    assert section.offer.kind == kind, (kind, section.offer)
    model, options = type(section.config), dict(section.config)
    options |= {k: v for k, v in (known or {}).items() if k in options and options[k] is None}
    try:
        config = model.model_validate(options)
    except ValidationError as error:
        raise UserError(f"{kind}: {_joined(error, model, options)}") from None
    return section.offer.build(config)


def _joined(error: ValidationError, model: type[BaseModel], options: Mapping[str, Any]) -> str:
    findings = explain(error, model, options)
    return "; ".join(f"{f.path}: {f.text}" if f.keys else f.text for f in findings)


def _ambiguous(kind: Kind, name: str, offers: Iterable[Offer]) -> str:
    full = sorted({f"{offer.distribution}:{name}" for offer in offers})
    if len(full) == 1:
        return f"{kind} {name!r} is offered twice by one distribution: {full[0]}"
    return f"{kind} {name!r} is ambiguous: write {' or '.join(full)}"


@cache
def installed(enabled: bool = True) -> Registry:
    """The registry of the installed plugins. enabled=False: of none."""
    return Registry(installed_plugins(enabled))
