"""pydantic's errors in the words of a recipe: which key, what is wrong, what was meant."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mirrorlib.errors import suggestion
from mirrorlib.yamlfile import Document, Keys, dotted

Model = TypeVar("Model", bound=BaseModel)

_EXPECTED = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "is_instance_of": "must be a mapping with a name",
    "list_type": "must be a list",
    "model_type": "must be a mapping of options",
    "string_type": "must be text",
    "tuple_type": "must be a list",
}


@dataclass(frozen=True)
class Finding:
    """What is wrong with the value at `keys`."""

    keys: Keys
    text: str

    @property
    def path(self) -> str:
        return dotted(self.keys)


def explain(error: ValidationError, model: type[BaseModel], value: object) -> list[Finding]:
    """A finding for each error that `model` found in `value`."""
    details = error.errors(include_url=False)
    return [Finding(_keys(d, value), _text(d, model)) for d in details]


def validated(document: Document, model: type[Model]) -> Model:
    """The document's value as `model` reads it. Raises RecipeError with every problem there is."""
    loaded = None
    try:
        loaded = model.model_validate(document.value)
    except ValidationError as error:
        for finding in explain(error, model, document.value):
            document.report(finding.keys, finding.text)
    document.raise_problems()
    assert loaded is not None
    return loaded


def show(value: Any) -> str:
    """A value as a recipe would write it, shortened."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _keys(detail: ErrorDetails, value: Any) -> Keys:
    """The part of the error's location that the user wrote: tags of unions are left out."""
    keys: Keys = ()
    for part in detail["loc"]:
        inside_mapping = isinstance(value, dict) and part in value
        inside_list = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if inside_mapping or inside_list:
            keys += (part,)
            value = value[part]
    return (*keys, detail["loc"][-1]) if detail["type"] == "missing" else keys


def _text(detail: ErrorDetails, model: type[BaseModel]) -> str:
    kind, written, message = detail["type"], detail["input"], detail["msg"]
    if kind == "extra_forbidden":
        return _unknown_key(detail, model)
    if kind == "missing":
        return f"is missing{_description(detail, model)}"
    if kind in ("value_error", "assertion_error"):
        return message.partition(", ")[2]
    message = _EXPECTED.get(kind, message.replace("Input should", "should"))
    message = message.replace("should be", "must be")
    text = f"{message[0].lower()}{message[1:]}, not {show(written)}"
    if kind == "literal_error" and isinstance(written, str):
        choices = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
        return text + suggestion(written, choices)
    if kind == "string_type" and isinstance(written, int | float):
        return f'{text}; quote it: "{show(written)}"'
    return text


def _unknown_key(detail: ErrorDetails, model: type[BaseModel]) -> str:
    known = sorted({n for m in _models_at(model, detail["loc"][:-1]) for n in m.model_fields})
    if not known:
        return "unknown key; there are no options"
    close = suggestion(str(detail["loc"][-1]), known)
    return f"unknown key{close or '; there are: ' + ', '.join(known)}"


def _description(detail: ErrorDetails, model: type[BaseModel]) -> str:
    for owner in _models_at(model, detail["loc"][:-1]):
        field = owner.model_fields.get(str(detail["loc"][-1]))
        if field and field.description:
            return f": {field.description.rstrip('.')}"
    return ""


def _models_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[type[BaseModel]]:
    """The models that may stand at a location. Indices and tags of unions lead nowhere deeper."""
    models = [model]
    for part in loc:
        fields = [m.model_fields[str(part)] for m in models if str(part) in m.model_fields]
        if fields:
            models = [m for field in fields for m in _models_in(field.annotation)]
    return models


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
