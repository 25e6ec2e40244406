"""The chunking transformer against one written token by token from its description."""

import math

import torch
from torch import Tensor

from mirrorlib_arp.chunking import ChunkingTransformer, Classes, Discrete, Given, Layer, TokenType
from mirrorlib_arp.chunking.layers import Block

WIDTH, HEADS = 8, 2
LAYOUT = (("given", 2), ("late", 1), ("pair", 4), ("late", 1), ("pair", 2))
CHUNKS = (0, 0, 1, 2, 2, 3, 3, 4, 5, 5)
PLACES = (0, 1, 0, 0, 1, 0, 1, 0, 0, 1)


def transformer() -> ChunkingTransformer:
    torch.manual_seed(0)
    types = [
        TokenType("pair", Discrete(4, WIDTH), Classes(WIDTH, 4), chunk=2),
        TokenType("given", Given(3, WIDTH)),
        TokenType("late", Discrete(2, WIDTH), Classes(WIDTH, 2)),
    ]
    module = ChunkingTransformer(
        types,
        [Layer("scene", "adaln"), Layer("scene"), Layer()],
        width=WIDTH,
        heads=HEADS,
        max_length=10,
        context_widths={"scene": 5},
        ratio=3,
    )
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module.double()


def normed(token: Tensor, norm: torch.nn.LayerNorm | None = None) -> Tensor:
    scaled = (token - token.mean()) / torch.sqrt(token.var(correction=0) + 1e-5)
    return scaled if norm is None or norm.weight is None else scaled * norm.weight + norm.bias


def attended(query: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    size = WIDTH // HEADS
    parts = []
    for head in range(HEADS):
        columns = slice(head * size, (head + 1) * size)
        logits = [query[columns] @ key[columns] / math.sqrt(size) for key in keys]
        weight = torch.stack(logits).exp()
        parts.append(
            sum(w * v[columns] for w, v in zip(weight / weight.sum(), values, strict=True))
        )
    return torch.cat(parts)


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def readings(block: Block, tokens: list[Tensor], scene: Tensor) -> list[Tensor]:
    """What each token reads of the scene (L, C)."""
    cross = block.cross
    assert cross is not None
    pairs = [cross.key_value(cell).chunk(2) for cell in scene]
    keys, values = ([pair[i] for pair in pairs] for i in (0, 1))
    queries = [cross.query(normed(token, block.norm_cross)) for token in tokens]
    return [cross.merge(attended(query, keys, values)) for query in queries]


def layer(block: Block, tokens: list[Tensor], sees: list[list[int]], scene: Tensor) -> list[Tensor]:
    zero, one = torch.zeros(WIDTH), torch.ones(WIDTH)
    vectors = [(zero, zero, one, zero, zero, one)] * len(tokens)
    if block.cross is not None:
        read = readings(block, tokens, scene)
        if block.modulation is None:
            tokens = [token + reading for token, reading in zip(tokens, read, strict=True)]
        else:
            vectors = [block.modulation(r * torch.sigmoid(r)).chunk(6) for r in read]
    inner = []
    for token, (shift, scale, *_) in zip(tokens, vectors, strict=True):
        x = normed(token, block.norm_attention) * (1 + scale) + shift
        inner.append(block.qkv(x).chunk(3))
    result = []
    for index, (token, (_, _, gate, shift, scale, last)) in enumerate(
        zip(tokens, vectors, strict=True)
    ):
        keys, values = ([inner[other][i] for other in sees[index]] for i in (1, 2))
        token = token + gate * block.merge(attended(inner[index][0], keys, values))
        x = normed(token, block.norm_network) * (1 + scale) + shift
        result.append(token + last * block.network[2](gelu(block.network[0](x))))
    return result


def test_equals_a_transformer_written_token_by_token() -> None:
    module, generator = transformer(), torch.manual_seed(1)
    values = {
        "given": torch.randn(1, 2, 3, dtype=torch.float64, generator=generator),
        "pair": torch.randint(4, (1, 6), generator=generator),
        "late": torch.randint(2, (1, 2), generator=generator),
    }
    scene = torch.randn(1, 5, 2, 3, dtype=torch.float64, generator=generator)
    cells = [scene[0, :, row, column] for row in range(2) for column in range(3)]

    kinds = [name for name, count in LAYOUT for _ in range(count)]
    number = {"pair": 0, "given": 1, "late": 2}
    tokens, sees, left = [], [], {name: iter(value[0]) for name, value in values.items()}
    for token, kind in enumerate(kinds):
        value = module.embeddings[kind](next(left[kind])[None, None], {})[0, 0]
        tokens.append(value + module.kind[number[kind]] + module.position[token])
        sees.append(list(range(token + 1)))
    slots = [token for token, kind in enumerate(kinds) if kind != "given"]
    for token in slots:
        empty = module.place[PLACES[token]] + module.kind[number[kinds[token]]]
        tokens.append(empty + module.position[token])
        earlier = [other for other in range(10) if CHUNKS[other] < CHUNKS[token]]
        beside = [10 + i for i, other in enumerate(slots) if CHUNKS[other] == CHUNKS[token]]
        sees.append(earlier + beside)
    for block in module.blocks:
        assert isinstance(block, Block)
        tokens = layer(block, tokens, sees, torch.stack(cells))

    found = module(LAYOUT, values, {"scene": scene})
    for name in ("pair", "late"):
        expected = [
            normed(token, module.norm)
            for slot, token in zip(slots, tokens[10:], strict=True)
            if kinds[slot] == name
        ]
        torch.testing.assert_close(found[name][0], torch.stack(expected))
