"""The chunking transformer: what sees what, and that one pass equals decoding chunk by chunk."""

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mirrorlib.errors import UserError
from mirrorlib_arp.chunking import (
    ChunkingTransformer,
    Classes,
    Discrete,
    Gaussian,
    Given,
    Layer,
    Layout,
    Linear,
    Masked,
    Mixture,
    TokenType,
)

WIDTH = 16
ROWS = 2
NAMES = ("start", "turn", "move", "stop")
RLBENCH = (("prompt", 6), ("x", 1), ("y", 1), ("z", 1), ("gripper", 1), ("collision", 1))
BLIND = {(reader, read) for reader in ("gripper", "collision") for read in "xyz"}


def model(
    turn: int | None = 1,
    move: int | None = 2,
    layers: tuple[Layer, ...] = (Layer("scene", "adaln"), Layer("words"), Layer()),
    blocked: frozenset[tuple[str, str]] = frozenset(),
    seed: int = 0,
) -> ChunkingTransformer:
    """Given, discrete, continuous and mixture tokens; nothing is left at zero."""
    torch.manual_seed(seed)
    types = [
        TokenType("start", Given(3, WIDTH)),
        TokenType("turn", Discrete(5, WIDTH), Classes(WIDTH, 5), turn),
        TokenType("move", Linear(2, WIDTH), Gaussian(WIDTH, 2), move),
        TokenType("stop", Linear(1, WIDTH), Mixture(WIDTH, 1, 3)),
    ]
    module = ChunkingTransformer(
        types,
        layers,
        width=WIDTH,
        heads=2,
        max_length=24,
        context_widths={"scene": 4, "words": 6},
        blocked=blocked,
    )
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.double().eval()


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.manual_seed(seed))


def contexts(rows: int = ROWS) -> Mapping[str, Tensor | Masked]:
    mask = torch.tensor([[True, True, False], [True, False, False]]).repeat(rows, 1)[:rows]
    return {"scene": numbers(rows, 4, 2, 3), "words": Masked(numbers(rows, 3, 6, seed=2), mask)}


def values_of(layout: Layout, seed: int = 3, rows: int = ROWS) -> dict[str, Tensor]:
    count = {name: sum(n for kind, n in layout if kind == name) for name in NAMES}
    values = {
        "start": numbers(rows, count["start"], 3, seed=seed),
        "turn": torch.randint(5, (rows, count["turn"]), generator=torch.manual_seed(seed)),
        "move": numbers(rows, count["move"], 2, seed=seed + 1),
        "stop": numbers(rows, count["stop"], 1, seed=seed + 2),
    }
    return {name: value for name, value in values.items() if count[name]}


def chunks_of(layout: Layout, module: ChunkingTransformer) -> list[tuple[str, int]]:
    """By hand: type and chunk number of each token."""
    sizes = dict(module.sizes)
    chunks: list[tuple[str, int]] = []
    number = 0
    for kind, count in layout:
        size = sizes.get(kind) or count
        chunks += [(kind, number + place // size) for place in range(count)]
        number += -(-count // size)
    return chunks


LAYOUTS = st.lists(
    st.tuples(st.sampled_from(NAMES), st.integers(1, 4)), min_size=1, max_size=5
).filter(lambda layout: any(kind != "start" for kind, _ in layout))
SIZES = st.sampled_from([1, 2, 3, None])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(LAYOUTS, SIZES, SIZES, st.randoms(use_true_random=False))
def test_a_value_reaches_exactly_the_later_chunks(
    layout: Layout, turn: int | None, move: int | None, random: object
) -> None:
    module = model(turn, move, layers=(Layer("scene", "adaln"), Layer()))
    values, context = values_of(layout), contexts()
    chunks = chunks_of(layout, module)
    token = random.randrange(len(chunks))  # type: ignore[attr-defined]
    kind, changed = chunks[token]
    place = [name for name, _ in chunks[:token]].count(kind)
    other = {name: value.clone() for name, value in values.items()}
    other[kind][:, place] = (other[kind][:, place] + 1) % 5
    with torch.no_grad():
        before, after = module(layout, values, context), module(layout, other, context)
    for name, slots in before.items():
        numbers_of = [number for each, number in chunks if each == name]
        for index, number in enumerate(numbers_of):
            same = torch.equal(slots[:, index], after[name][:, index])
            assert same == (number <= changed)


def log_likelihood(
    module: ChunkingTransformer, slots: Mapping[str, Tensor], values: Mapping[str, Tensor]
) -> Tensor:
    targets = {name: values[name] for name in slots}
    losses = module.losses(slots, targets, contexts(len(values[next(iter(values))])))
    return -torch.cat(list(losses.values()), 1).sum(1)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(LAYOUTS, SIZES, SIZES)
def test_one_pass_equals_decoding_chunk_by_chunk(
    layout: Layout, turn: int | None, move: int | None
) -> None:
    module = model(turn, move)
    values, context = values_of(layout), contexts()
    parts: dict[str, list[Tensor]] = {}
    predicted = {number for kind, number in chunks_of(layout, module) if kind != "start"}
    with torch.no_grad():
        together = module(layout, values, context)
        for chunk in range(len(predicted)):
            for name, slots in module.step(layout, values, chunk, context).items():
                parts.setdefault(name, []).append(slots)
        stepwise = {name: torch.cat(slots, 1) for name, slots in parts.items()}
        assert stepwise.keys() == together.keys()
        torch.testing.assert_close(
            log_likelihood(module, together, values), log_likelihood(module, stepwise, values)
        )
    for name in stepwise:
        torch.testing.assert_close(together[name], stepwise[name])


def test_probabilities_of_all_sequences_sum_to_one() -> None:
    module = model(turn=2)
    layout = (("start", 2), ("turn", 3))
    every = torch.cartesian_prod(*[torch.arange(5)] * 3)
    values = {"start": numbers(1, 2, 3).expand(len(every), -1, -1), "turn": every}
    context = {
        "scene": numbers(1, 4, 2, 3).expand(len(every), -1, -1, -1),
        "words": numbers(1, 3, 6).expand(len(every), -1, -1),
    }
    with torch.no_grad():
        losses = module.losses(module(layout, values, context), {"turn": every}, context)
    assert (-losses["turn"].sum(1)).exp().sum().item() == pytest.approx(1, abs=1e-6)


def test_generating_repeats_the_likeliest_values_and_samples_by_the_generator() -> None:
    module, context = model(turn=2, move=None), contexts(64)
    layout = (("start", 1), ("turn", 3), ("move", 2), ("stop", 2))
    given_values = {"start": numbers(64, 1, 3)}
    likeliest = module.generate(layout, given_values, context)
    with torch.no_grad():
        slots = module(layout, given_values | dict(likeliest.values), context)
        parameters = module.predict(slots, context)
    assert torch.equal(parameters["turn"].argmax(-1), likeliest.values["turn"])
    torch.testing.assert_close(parameters["move"][..., :2], likeliest.values["move"])
    torch.testing.assert_close(slots["stop"], likeliest.slots["stop"])
    draws = [
        module.generate(layout, given_values, context, torch.Generator().manual_seed(seed)).values
        for seed in (1, 1, 2)
    ]
    for name in ("turn", "move", "stop"):
        assert torch.equal(draws[0][name], draws[1][name])
        assert not torch.equal(draws[0][name], draws[2][name])


def rlbench(dropout: float = 0.0) -> ChunkingTransformer:
    torch.manual_seed(0)
    types = [TokenType("prompt", Given(WIDTH, WIDTH))]
    types += [TokenType(axis, Discrete(72, WIDTH), Classes(WIDTH, 72)) for axis in "xyz"]
    types += [
        TokenType(name, Discrete(2, WIDTH), Classes(WIDTH, 2)) for name in ("gripper", "collision")
    ]
    return ChunkingTransformer(
        types, [Layer()] * 2, width=WIDTH, heads=2, max_length=11, dropout=dropout, blocked=BLIND
    )


def keyframe(rows: int = 4) -> dict[str, Tensor]:
    generator = torch.manual_seed(5)
    values = {axis: torch.randint(72, (rows, 1), generator=generator) for axis in "xyz"}
    values |= {
        name: torch.randint(2, (rows, 1), generator=generator) for name in ("gripper", "collision")
    }
    return {"prompt": torch.randn(rows, 6, WIDTH, generator=generator), **values}


def test_blocked_types_have_exactly_no_influence() -> None:
    module, values = rlbench().eval(), keyframe()
    before = module(RLBENCH, values)
    after = module(RLBENCH, values | {axis: (values[axis] + 7) % 72 for axis in "xyz"})
    assert torch.equal(before["gripper"], after["gripper"])
    assert torch.equal(before["collision"], after["collision"])
    assert not torch.equal(before["y"], after["y"])
    other = module(RLBENCH, values | {"gripper": 1 - values["gripper"]})
    assert not torch.equal(before["collision"], other["collision"])


def test_a_value_may_not_get_round_a_block() -> None:
    module = model(blocked=frozenset({("stop", "turn")}))
    module(layout := (("turn", 1), ("stop", 1)), values_of(layout), contexts())
    leaking = (("turn", 1), ("move", 1), ("stop", 1))
    with pytest.raises(UserError, match=r"would learn it through 'move'; block \('stop', 'move'\)"):
        module(leaking, values_of(leaking), contexts())
    sealed = model(blocked=frozenset({("stop", "turn"), ("move", "turn")}))
    values = values_of(leaking)
    other = values | {"turn": (values["turn"] + 1) % 5}
    before, after = (sealed(leaking, each, contexts()) for each in (values, other))
    assert all(torch.equal(before[name], after[name]) for name in ("move", "stop"))


def test_inputs_may_be_noised_while_targets_stay_clean() -> None:
    module, clean = rlbench().eval(), keyframe()
    noised = clean | {"x": (clean["x"] + 1) % 72}
    slots = module(RLBENCH, noised)
    assert torch.equal(slots["x"], module(RLBENCH, clean)["x"])
    loss = module.losses(slots, {"x": clean["x"]})["x"]
    logits = module.heads["x"](slots["x"], {}).flatten(0, 1)
    torch.testing.assert_close(loss[:, 0], -logits.log_softmax(-1)[range(4), clean["x"][:, 0]])


def test_masked_context_is_not_read_and_the_rest_is() -> None:
    module, layout = model(), (("start", 1), ("turn", 1))
    context, values = contexts(), values_of((("start", 1), ("turn", 1)))
    words = context["words"]
    assert isinstance(words, Masked)
    before = module(layout, values, context)["turn"]
    changed = words.values + ~words.mask[..., None]
    after = module(layout, values, {**context, "words": Masked(changed, words.mask)})["turn"]
    assert torch.equal(before, after)
    changed = words.values + words.mask[..., None]
    after = module(layout, values, {**context, "words": Masked(changed, words.mask)})["turn"]
    assert not torch.isclose(before, after).all(-1).any()


def test_dropout_comes_from_each_rows_own_seed() -> None:
    module, values = rlbench(dropout=0.3).train(), keyframe()
    seed = torch.arange(4) + 11
    together = module(RLBENCH, values, seed=seed)["collision"]
    for row in range(4):
        one = {name: value[row : row + 1] for name, value in values.items()}
        alone = module(RLBENCH, one, seed=seed[row : row + 1])["collision"]
        torch.testing.assert_close(together[row : row + 1], alone)
    assert not torch.isclose(together, module(RLBENCH, values, seed=seed + 1)["collision"]).all()
    assert torch.equal(module.eval()(RLBENCH, values)["x"], module(RLBENCH, values, seed=seed)["x"])


def test_every_parameter_that_matters_has_a_finite_gradient() -> None:
    module, layout = model(), (("start", 2), ("turn", 2), ("move", 4), ("stop", 2))
    values = values_of(layout)
    losses = module.losses(
        module(layout, values, contexts()),
        {name: values[name] for name in ("turn", "move", "stop")},
        contexts(),
    )
    sum(loss.mean() for loss in losses.values()).backward()  # type: ignore[union-attr]
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_bf16_autocast_gives_float32_losses_near_those_of_float32() -> None:
    module, values = rlbench(), keyframe()
    targets = {name: value for name, value in values.items() if name != "prompt"}
    exact = module.losses(module(RLBENCH, values), targets)
    with torch.autocast("cpu", torch.bfloat16):
        rough = module.losses(module(RLBENCH, values), targets)
    for name in exact:
        assert rough[name].dtype == torch.float32
        torch.testing.assert_close(rough[name], exact[name], rtol=0.05, atol=0.05)
    sum(loss.mean() for loss in rough.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


def test_adaln_layers_begin_as_the_identity() -> None:
    torch.manual_seed(0)
    types = [TokenType("turn", None, Classes(WIDTH, 5))]
    module = ChunkingTransformer(
        types,
        [Layer("scene", "adaln")] * 2,
        width=WIDTH,
        heads=2,
        max_length=1,
        context_widths={"scene": 4},
    )
    slots = module((("turn", 1),), {}, {"scene": torch.randn(3, 5, 4)})["turn"]
    empty = module.norm(module.place[:1] + module.kind[:1] + module.position[:1])
    torch.testing.assert_close(slots, empty.expand(3, 1, -1))


def test_overfits_one_batch() -> None:
    module, values = rlbench(), keyframe(16)
    targets = {name: value for name, value in values.items() if name != "prompt"}
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-2)
    for _ in range(120):
        losses = module.losses(module(RLBENCH, values), targets)
        loss = torch.stack([each.mean() for each in losses.values()]).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.02
    decoded = module.eval().generate(RLBENCH, {"prompt": values["prompt"]}).values
    assert all(torch.equal(decoded[name], targets[name]) for name in targets)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ((("turm", 1),), "unknown token type 'turm'; did you mean 'turn'"),
        ((("start", 1),), "predicts nothing"),
        ((("turn", 25),), "exceeds max_length 24"),
        ((("turn", 0),), "has 0 of 'turn'"),
    ],
)
def test_a_wrong_layout_is_refused(layout: Layout, message: str) -> None:
    with pytest.raises(UserError, match=message):
        model()(layout, {}, contexts())


def test_missing_or_misshapen_values_and_contexts_are_named() -> None:
    module, layout = model(), (("start", 1), ("move", 2), ("turn", 1))
    values = values_of(layout)
    with pytest.raises(UserError, match="values of 'start' are missing"):
        module(layout, {"move": values["move"]}, contexts())
    with pytest.raises(UserError, match=r"values of 'move' must be \(B, >= 2, 2\), not \(2, 2, 1"):
        module(layout, values | {"move": values["move"][..., :1]}, contexts())
    with pytest.raises(UserError, match="context 'words' is missing; did you mean 'word'"):
        module(layout, values, {"scene": contexts()["scene"], "word": contexts()["words"]})
    with pytest.raises(UserError, match="'turn' is not a given token type"):
        module.generate(layout, values, contexts())


@pytest.mark.parametrize(
    ("types", "layers", "message"),
    [
        ([TokenType("a", Given(2, WIDTH), Classes(WIDTH, 2))], [], "embedding is not Given"),
        ([TokenType("a", None), TokenType("a", None)], [], "two token types are named 'a'"),
        ([TokenType("a.b", None)], [], "cannot name a token type"),
        ([TokenType("a", None)], [Layer("sight")], "context_widths lacks 'sight'"),
        ([TokenType("a", None)], [Layer(mode="adaln")], "mode adaln needs a context"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    types: list[TokenType], layers: list[Layer], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        ChunkingTransformer(types, layers, width=WIDTH, heads=2, max_length=4)
