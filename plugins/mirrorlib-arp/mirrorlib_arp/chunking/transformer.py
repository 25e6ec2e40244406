"""The chunking causal transformer.

After ARP (Zhang et al., "Autoregressive Action Sequence Learning for Robotic Manipulation", 2024).
In training every token to be predicted appears twice: as a *slot*, an empty place from which it
is predicted, and as a *known* token, once its value is given. A known token sees the known tokens
up to itself; a slot sees the known tokens of strictly earlier chunks and all slots of its own
chunk; both share all weights, and one softmax runs over both. So one pass over the true values
computes exactly the conditionals of decoding chunk by chunk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from mirrorlib.errors import UserError, suggestion
from mirrorlib_arp.chunking.embeddings import Embedding
from mirrorlib_arp.chunking.heads import Head
from mirrorlib_arp.chunking.layers import Block, Contexts, Layer, tokens_of
from mirrorlib_arp.chunking.layout import Layout, Plan, plan_of, visible
from mirrorlib_arp.chunking.tokens import TokenType, Values, check, checked, rows_of
from mirrorlib_arp.dropout import RowDropout


@dataclass(frozen=True)
class Generated:
    """What was decoded, by predicted type. values: (B, n) or (B, n, dim). slots: (B, n, D)."""

    values: Values
    slots: Values


class ChunkingTransformer(nn.Module):
    """Predicts sequences of typed tokens chunk after chunk.

    Which tokens a sequence has is said with each call, by a layout such as
    `(("state", 1), ("action", 16))`: runs of a type's tokens. B is the number of rows, n that
    of a type's tokens in the layout, D the width.

    width: a multiple of heads. max_length: tokens of the longest layout. context_widths: channels
    of each named context that a layer reads. dropout: share that is zeroed of the tokens at first,
    and of what attention and network add to them. ratio: width of the networks over D. blocked:
    pairs (reader, read) of types; the reader's tokens never see the read one's. Raises UserError
    where sizes do not fit.

    A type's embedding has no gradient if nothing ever sees its tokens: leave it out there.
    """

    def __init__(
        self,
        types: Sequence[TokenType],
        layers: Sequence[Layer],
        *,
        width: int,
        heads: int,
        max_length: int,
        context_widths: Mapping[str, int] | None = None,
        dropout: float = 0.0,
        ratio: int = 4,
        blocked: Collection[tuple[str, str]] = (),
    ) -> None:
        super().__init__()
        check(types, layers, width, heads, context_widths or {}, blocked)
        self.number = {kind.name: index for index, kind in enumerate(types)}
        self.sizes = tuple((kind.name, kind.chunk) for kind in types if kind.head is not None)
        self.blocked = frozenset(blocked)
        self.max_length = max_length
        self.dropout = dropout
        self.layers = tuple(layers)
        self.embeddings = nn.ModuleDict(
            {kind.name: kind.embedding for kind in types if kind.embedding is not None}
        )
        self.heads = nn.ModuleDict({kind.name: kind.head for kind in types if kind.head})
        self.kind = _table(len(types), width)
        self.position = _table(max_length, width)
        self.place = _table(max((size or max_length for _, size in self.sizes), default=1), width)
        self.blocks = nn.ModuleList(
            Block(
                width,
                heads,
                (context_widths or {})[layer.context] if layer.context else None,
                layer.mode == "adaln",
                ratio,
            )
            for layer in layers
        )
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        layout: Layout,
        inputs: Values,
        contexts: Contexts | None = None,
        seed: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The slots of all predicted tokens, each given the values of earlier chunks.

        inputs: the values that later tokens see; they may be noised, as the targets are given
        apart. Tokens of the last predicted chunk and after it are seen by none: their values may
        be left out. contexts: what layers, embeddings and heads read. seed: (B,) int64, the rows'
        own seeds, from which dropout is drawn; None: from torch's generator.

        Returns, by predicted type, slots after the last layer's norm: (B, n, D).
        """
        plan = self._plan(layout)
        slots = [token for chunk in plan.predicted for token in chunk]
        return self._slots(plan, inputs, contexts or {}, plan.known, slots, seed)

    def predict(self, slots: Values, contexts: Contexts | None = None) -> dict[str, Tensor]:
        """The parameters of each predicted token's distribution, as its head gives them."""
        return {name: self._head(name)(slot, contexts or {}) for name, slot in slots.items()}

    def losses(
        self, slots: Values, targets: Values, contexts: Contexts | None = None
    ) -> dict[str, Tensor]:
        """Negative log-likelihoods (B, n) in nats, in float32, of each type in `targets`.

        slots: as `forward` returns them. targets: values, or what else the type's head accepts,
        such as soft labels. Leave padded tokens at the sequence's end out by weighting these
        losses: no slot sees a slot's value, nor any later one.
        """
        contexts = contexts or {}
        parameters = self.predict({name: slots[name] for name in targets}, contexts)
        return {name: self._head(name).losses(parameters[name], targets[name]) for name in targets}

    def step(
        self,
        layout: Layout,
        known: Values,
        chunk: int,
        contexts: Contexts | None = None,
    ) -> dict[str, Tensor]:
        """The slots of one predicted chunk alone, {type: (B, n, D)}, numbered from zero.

        known: the values of all tokens before it; further ones are not looked at.
        """
        plan = self._plan(layout)
        slots = plan.predicted[chunk]
        return self._slots(plan, known, contexts or {}, slots.start, slots, None)

    @torch.no_grad()
    def generate(
        self,
        layout: Layout,
        given: Values,
        contexts: Contexts | None = None,
        generator: torch.Generator | None = None,
    ) -> Generated:
        """Decodes a sequence chunk by chunk.

        given: the values of types without a head. generator: draws values, on the module's
        device; None: the likeliest ones. Without dropout if the module is in evaluation mode.
        """
        if predicted := [name for name in given if name not in self.number or name in self.heads]:
            raise UserError(f"chunking: {predicted[0]!r} is not a given token type; leave it out")
        contexts = contexts or {}
        values: dict[str, list[Tensor]] = {}
        slots: dict[str, list[Tensor]] = {}
        for chunk in range(len(self._plan(layout).predicted)):
            known = {**given, **{name: torch.cat(parts, 1) for name, parts in values.items()}}
            for name, slot in self.step(layout, known, chunk, contexts).items():
                head = self._head(name)
                values.setdefault(name, []).append(head.choose(head(slot, contexts), generator))
                slots.setdefault(name, []).append(slot)
        return Generated(
            {name: torch.cat(parts, 1) for name, parts in values.items()},
            {name: torch.cat(parts, 1) for name, parts in slots.items()},
        )

    def _head(self, name: str) -> Head:
        if name not in self.heads:
            hint = suggestion(name, self.heads)
            raise UserError(f"chunking: token type {name!r} is not predicted{hint}")
        head = self.heads[name]
        assert isinstance(head, Head)
        return head

    def _plan(self, layout: Layout) -> Plan:
        runs = tuple((name, count) for name, count in layout)
        for name, count in runs:
            if name not in self.number:
                hint = suggestion(name, self.number)
                raise UserError(f"chunking: layout names unknown token type {name!r}{hint}")
            if count < 1:
                raise UserError(f"chunking: layout has {count} of {name!r}; leave it out")
        if (length := sum(count for _, count in runs)) > self.max_length:
            raise UserError(
                f"chunking: layout of {length} tokens exceeds max_length {self.max_length}"
            )
        return plan_of(runs, self.sizes, self.blocked)

    def _slots(
        self,
        plan: Plan,
        values: Values,
        contexts: Contexts,
        known: int,
        slots: Sequence[int],
        seed: Tensor | None,
    ) -> dict[str, Tensor]:
        """The given slots, by type, beside the first `known` tokens."""
        rows = rows_of(values, contexts)
        empty = self._empty(plan, slots).expand(rows, -1, -1)
        tokens = torch.cat([*self._known(plan, values, contexts, known, rows), empty], 1)
        dropout = RowDropout(self.dropout if self.training else 0.0, seed)
        tokens = dropout(tokens, "chunking")
        mask = visible(plan, self.blocked, known, tuple(slots), tokens.device)
        for index, (layer, block) in enumerate(zip(self.layers, self.blocks, strict=True)):
            context = tokens_of(contexts, layer.context) if layer.context else None
            tokens = block(tokens, mask, context, dropout, f"chunking {index}")
        return _by_type(self.norm(tokens[:, known:]), [plan.kinds[token] for token in slots])

    def _known(
        self, plan: Plan, values: Values, contexts: Contexts, known: int, rows: int
    ) -> list[Tensor]:
        """The first `known` tokens with their values, in pieces (B, n, D)."""
        embedded: dict[str, Tensor] = {}
        for name, count in Counter(plan.kinds[:known]).items():
            if name not in self.embeddings:
                embedded[name] = self.kind.new_zeros(rows, count, self.kind.shape[1])
            else:
                embedding = self.embeddings[name]
                assert isinstance(embedding, Embedding)
                embedded[name] = embedding(checked(name, embedding, values, count), contexts)
        pieces: list[Tensor] = []
        start = 0
        for name, count in _runs(plan.kinds[:known]):
            piece, embedded[name] = embedded[name].tensor_split([count], 1)
            place = self.position[start : start + count] + self.kind[self.number[name]]
            pieces.append(piece + place)
            start += count
        return pieces

    def _empty(self, plan: Plan, slots: Sequence[int]) -> Tensor:
        """The slots before the first layer: (N, D). They are those of whole chunks."""
        pieces = []
        for chunk in plan.predicted:
            if chunk.start in slots:
                kind = self.kind[self.number[plan.kinds[chunk.start]]]
                position = self.position[chunk.start : chunk.stop]
                pieces.append(self.place[: len(chunk)] + kind + position)
        return torch.cat(pieces)


def _table(count: int, width: int) -> nn.Parameter:
    return nn.Parameter(0.02 * torch.randn(count, width))


def _runs(kinds: Sequence[str]) -> list[tuple[str, int]]:
    return [(name, len(list(run))) for name, run in groupby(kinds)]


def _by_type(tokens: Tensor, kinds: Sequence[str]) -> dict[str, Tensor]:
    """tokens: (B, n, D), one for each of n kinds."""
    runs = _runs(kinds)
    pieces: dict[str, list[Tensor]] = {}
    split = tokens.split([count for _, count in runs], 1)
    for (name, _), piece in zip(runs, split, strict=True):
        pieces.setdefault(name, []).append(piece)
    return {name: torch.cat(parts, 1) for name, parts in pieces.items()}
