"""Token types, their values, and what must hold of both."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from mirrorlib.errors import UserError, suggestion
from mirrorlib_arp.chunking.embeddings import Embedding, Given
from mirrorlib_arp.chunking.heads import Head
from mirrorlib_arp.chunking.layers import Contexts, Layer, Masked

Values = Mapping[str, Tensor]
"""By token type, its tokens in order of appearance: int64 (B, n), or floating (B, n, dim)."""


@dataclass(frozen=True)
class TokenType:
    """One kind of token.

    embedding: how later tokens see a value; None: they see that it is there, not what it is.
    head: how a value is predicted; None: it is always given.
    chunk: how many consecutive tokens of a run are predicted at once; None: the whole run.
    """

    name: str
    embedding: Embedding | None
    head: Head | None = None
    chunk: int | None = 1


def check(
    types: Sequence[TokenType],
    layers: Sequence[Layer],
    width: int,
    heads: int,
    context_widths: Mapping[str, int],
    blocked: Collection[tuple[str, str]],
) -> None:
    """Raises UserError where a transformer's types, layers and sizes do not fit each other."""
    names = [kind.name for kind in types]
    for kind in types:
        if names.count(kind.name) > 1:
            raise UserError(f"chunking: two token types are named {kind.name!r}; rename one")
        if not kind.name.isidentifier() or hasattr(nn.ModuleDict, kind.name):
            raise UserError(f"chunking: {kind.name!r} cannot name a token type; rename it")
        if kind.head is not None and isinstance(kind.embedding, Given):
            raise UserError(f"chunking: {kind.name!r} is predicted, so its embedding is not Given")
        if kind.chunk is not None and kind.chunk < 1:
            raise UserError(f"chunking: the chunk size of {kind.name!r} must be at least 1")
    for name in (name for pair in blocked for name in pair):
        if name not in names:
            hint = suggestion(name, names)
            raise UserError(f"chunking: blocked names unknown token type {name!r}{hint}")
    if width % heads:
        raise UserError(f"chunking: width {width} must be a multiple of heads {heads}")
    for layer in layers:
        if layer.context is not None and layer.context not in context_widths:
            raise UserError(
                f"chunking: context_widths lacks {layer.context!r}, which a layer reads"
            )
        if layer.context is None and layer.mode == "adaln":
            raise UserError("chunking: a layer in mode adaln needs a context")


def rows_of(values: Values, contexts: Contexts) -> int:
    """B, from any value or context."""
    for given in (*values.values(), *contexts.values()):
        return len(given.values if isinstance(given, Masked) else given)
    raise UserError("chunking: without a value or a context the number of rows is unknown")


def checked(name: str, embedding: Embedding, values: Values, count: int) -> Tensor:
    """The first `count` values of a type, checked."""
    axes = f"(B, >= {count})" if embedding.dim is None else f"(B, >= {count}, {embedding.dim})"
    if name not in values:
        raise UserError(f"chunking: values of {name!r} are missing; pass a tensor {axes}")
    value = values[name]
    ending = () if embedding.dim is None else (embedding.dim,)
    if value.shape[2:] != ending or value.shape[1] < count:
        raise UserError(f"chunking: values of {name!r} must be {axes}, not {tuple(value.shape)}")
    return value[:, :count]
