"""YAML that knows where each value was written, and overrides `a.b=c`.

A safe subset: text, numbers, true, false, null, lists and mappings with text keys. Numbers follow
YAML 1.2 with `1e-3` a number; `on`, `yes` and dates stay text. Duplicate keys, aliases and other
tags are problems rather than surprises.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from mirrorlib.errors import RecipeError, suggestion

Keys: TypeAlias = tuple[str | int, ...]
"""The way to a value: keys of mappings and indices of lists."""


@dataclass(frozen=True, order=True)
class Place:
    """Where something was written. Ordered as a reader meets it: the file, then overrides."""

    rank: tuple[int, int, int]
    label: str = field(compare=False)


@dataclass(frozen=True, order=True)
class Problem:
    place: Place
    text: str

    def __str__(self) -> str:
        return f"{self.place.label}: {self.text}"


@dataclass
class Document:
    """A value, the place of each part of it, and the problems met so far."""

    value: Any
    places: dict[Keys, Place]
    problems: list[Problem] = field(default_factory=list)

    def place(self, keys: Keys) -> Place:
        """Where the value was written, or the nearest part around it that was."""
        while keys not in self.places:
            keys = keys[:-1]
        return self.places[keys]

    def report(self, keys: Keys, text: str) -> None:
        """Note a problem of the value at `keys`."""
        self.problems.append(Problem(self.place(keys), f"{dotted(keys)}: {text}"))

    def raise_problems(self) -> None:
        """Raises RecipeError with every problem noted, in order, each once."""
        if self.problems:
            raise RecipeError(*dict.fromkeys(str(p) for p in sorted(self.problems)))

    def override(self, number: int, text: str) -> None:
        """Apply `a.b=c`: `c` is YAML; indices of lists are keys, as in `a.0=c`."""
        place = Place((1, number, 0), f"override {text}")
        path, equals, written = text.partition("=")
        names = path.strip().split(".")
        if not equals or not all(names):
            self.problems.append(Problem(place, "write it as section.key=value"))
            return
        keys = self._descend(names, place)
        if keys is None:
            return
        parsed = _parse(written, lambda line, column: place, keys)
        if isinstance(parsed, Problem):
            self.problems.append(parsed)
            return
        reduce(getitem, keys[:-1], self.value)[keys[-1]] = parsed.value
        self.problems += parsed.problems
        self.places = {k: v for k, v in self.places.items() if k[: len(keys)] != keys}
        self.places |= parsed.places

    def _descend(self, names: Sequence[str], place: Place) -> Keys | None:
        """The keys that names stand for; sections on the way that are missing are made."""
        keys: Keys = ()
        at: Any = self.value
        for depth, name in enumerate(names):
            if isinstance(at, dict):
                keys += (name,)
                if name not in at and depth < len(names) - 1:
                    at[name], self.places[keys] = {}, place
                at = at.get(name)
            elif isinstance(at, list) and re.fullmatch(r"\d{1,9}", name) and int(name) < len(at):
                keys += (int(name),)
                at = at[int(name)]
            else:
                held = f"a list of {len(at)}, from 0" if isinstance(at, list) else "not a section"
                self.problems.append(Problem(place, f"{dotted(keys)} is {held}: no {name!r} in it"))
                return None
        return keys


def dotted(keys: Sequence[str | int]) -> str:
    """`a.0.b`, as overrides write it."""
    return ".".join(map(str, keys))


def read_yaml(path: Path) -> Document:
    """Read a file that holds a mapping. Raises RecipeError; duplicate keys are only noted."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except IsADirectoryError:
        raise RecipeError(f"{path}: is a folder, not a recipe; name a file in it") from None
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file{_similar_file(path)}") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: byte {error.start} is not UTF-8 text") from None
    except ValueError as error:
        raise RecipeError(f"{str(path)!r}: is no file name: {error}") from None

    def place(line: int, column: int) -> Place:
        return Place((0, line, column), f"{path}:{line}:{column}")

    parsed = _parse(text, place)
    if isinstance(parsed, Problem):
        raise RecipeError(str(parsed))
    if not isinstance(parsed.value, dict):
        found = "is empty" if parsed.value is None else f"holds {_kind(parsed.value)}"
        raise RecipeError(f"{place(1, 1).label}: {found}; a recipe is a mapping of sections")
    return Document(parsed.value, parsed.places, parsed.problems)


def plain_document(value: object, label: str = "recipe") -> Document:
    """A document from a mapping in Python: everything was written at `label`."""
    if not isinstance(value, Mapping):
        raise RecipeError(f"{label}: must be a mapping of sections, not {_kind(value)}")
    return Document(_copied(value), {(): Place((0, 0, 0), label)})


def write_yaml(value: Mapping[str, Any]) -> str:
    """YAML that `read_yaml` reads back as the same value, keys in their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=None)


# ------------------------------------------------------------------------------------- the reader


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (add_implicit_resolver fills it)

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "aliases are not supported", mark)
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        return True


_SCALARS = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "int": (r"[-+]?[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
}
for _tag, (_pattern, _first) in _SCALARS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first)
        )

Placing: TypeAlias = Callable[[int, int], Place]
"""The place of a line and column, both from 1."""


def _parse(text: str, placing: Placing, keys: Keys = ()) -> Document | Problem:
    """The value of a text that stands at `keys`, or the problem that kept it from being read."""
    try:
        node = _Loader(text).get_single_node()
        document = Document(None, {})
        document.value = _construct(node, keys, document, placing) if node else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = placing(mark.line + 1, mark.column + 1) if mark else placing(1, 1)
        return Problem(where, f"not YAML: {error.problem or error.context}")
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        where = placing(before.count("\n") + 1, len(before) - before.rfind("\n"))
        return Problem(where, f"not YAML: the character {chr(error.character)!r} is not allowed")
    except RecursionError:
        return Problem(placing(1, 1), "not a recipe: nested too deeply")
    document.places.setdefault(keys, placing(1, 1))
    return document


def _construct(node: yaml.Node, keys: Keys, document: Document, placing: Placing) -> Any:
    """The value of a node; notes its places and problems in the document."""
    document.places.setdefault(keys, _place(node, placing))
    if isinstance(node, yaml.MappingNode) and node.tag.endswith(":map"):
        return _mapping(node, keys, document, placing)
    if isinstance(node, yaml.SequenceNode) and node.tag.endswith(":seq"):
        return [
            _construct(item, (*keys, index), document, placing)
            for index, item in enumerate(node.value)
        ]
    read = _READERS.get(node.tag) if isinstance(node, yaml.ScalarNode) else None
    try:
        if read:
            return read(node.value)
        document.report(keys, f"the tag {node.tag!r} is not supported")
    except ValueError:
        document.report(keys, f"{node.value[:40]!r} is no {node.tag.rpartition(':')[2]}")
    return None


def _mapping(
    node: yaml.MappingNode, keys: Keys, document: Document, placing: Placing
) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        place = _place(key_node, placing)
        if not isinstance(key_node, yaml.ScalarNode):
            document.problems.append(Problem(place, "a key must be text; quote it"))
            continue
        key = key_node.value
        if key in mapping:
            earlier = document.places[(*keys, key)].label
            what = f"{dotted((*keys, key))}: duplicate key, given before at {earlier}"
            document.problems.append(Problem(place, what))
            continue
        document.places[(*keys, key)] = place
        mapping[key] = _construct(value_node, (*keys, key), document, placing)
    return mapping


def _place(node: yaml.Node, placing: Placing) -> Place:
    return placing(node.start_mark.line + 1, node.start_mark.column + 1)


def _read_int(text: str) -> int:
    digits = text.lower()
    return int(digits, {"0x": 16, "0o": 8}.get(digits[:2], 10))


def _read_float(text: str) -> float:
    return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))


def _read_bool(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


_READERS: dict[str, Callable[[str], Any]] = {
    "tag:yaml.org,2002:str": str,
    "tag:yaml.org,2002:int": _read_int,
    "tag:yaml.org,2002:float": _read_float,
    "tag:yaml.org,2002:bool": _read_bool,
    "tag:yaml.org,2002:null": lambda text: None,
}


def _kind(value: object) -> str:
    """A value's kind, for messages."""
    kinds = {str: "text", list: "a list", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), type(value).__name__)


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(item) for item in value]
    return value


def _similar_file(path: Path) -> str:
    try:
        return suggestion(path.name, (other.name for other in path.parent.iterdir()))
    except OSError:
        return ""
