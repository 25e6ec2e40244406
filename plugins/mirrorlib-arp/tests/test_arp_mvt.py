"""The multi-view transformer: what reads what, and dropout from the rows' seeds."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mirrorlib_arp.dropout import RowDropout
from mirrorlib_arp.mvt import GatedBlock, Mvt, MvtContext, MvtSizes

SIZES = MvtSizes(28, 7, 8, 3, 6, width=16, depth=4, heads=2, dropout=0.1)
ROWS, LENGTH = 2, 5


def transformer(depth: int = 4) -> Mvt:
    torch.manual_seed(0)
    return Mvt(replace(SIZES, depth=depth)).double()


def given(seed: Tensor | None = None) -> tuple[Tensor, MvtContext]:
    generator = torch.manual_seed(1)
    views = torch.randn(ROWS, 3, 10, 28, 28, dtype=torch.float64, generator=generator)
    state = torch.randn(ROWS, 3, dtype=torch.float64, generator=generator)
    words = torch.randn(ROWS, LENGTH, 6, dtype=torch.float64, generator=generator)
    mask = torch.ones(ROWS, LENGTH, dtype=torch.bool)
    mask[1, 3:] = False
    return views, MvtContext(state, words, mask, seed)


def differ(one: Tensor, two: Tensor) -> bool:
    """Whether no token is the same."""
    return not torch.isclose(one, two).all(-1).any()


def test_shapes() -> None:
    tokens, maps = transformer()(*given(), "mvt")
    assert tokens.shape == (ROWS, 3, 4, 4, 16)
    assert maps.shape == (ROWS, 3, 16, 4, 4)


def test_a_token_is_where_its_patch_is() -> None:
    """Without layers, a pixel changes the token of its own patch and group-normalised others."""
    module = transformer(0)
    module.patch[1] = torch.nn.Identity()
    views, context = given()
    before = module(views, context, "mvt")[1]
    views[0, 1, 4, 8, 20] += 1
    changed = (module(views, context, "mvt")[1] - before).abs().amax(2) > 1e-9
    assert changed.nonzero().tolist() == [[0, 1, 1, 2]]


@pytest.mark.parametrize("depth", [1, 2])
def test_the_first_half_stays_within_a_view_and_reads_no_words(depth: int) -> None:
    """Of one layer all are joint; of two the first is within views."""
    module = transformer(depth)
    module.within = depth  # leaves out the joint half
    views, context = given()
    before = module(views, context, "mvt")[0]
    views[0, 1] += torch.randn_like(views[0, 1])
    after = module(views, replace(context, words=context.words + 1), "mvt")[0]
    assert differ(after[0, 1], before[0, 1])
    assert torch.equal(after[0, [0, 2]], before[0, [0, 2]]) and torch.equal(after[1], before[1])


def test_the_second_half_is_joint_and_blind_to_padding() -> None:
    module = transformer()
    views, context = given()
    before = module(views, context, "mvt")[0]
    words = context.words.clone()
    words[1, 3:] += 1
    assert torch.equal(module(views, replace(context, words=words), "mvt")[0], before)
    words[1, 2] += 1
    assert differ(module(views, replace(context, words=words), "mvt")[0][1], before[1])
    shorter = replace(context, words=context.words[:, :3], mask=context.mask[:, :3])
    torch.testing.assert_close(module(views, shorter, "mvt")[0][1], before[1])
    views[0, 1] += torch.randn_like(views[0, 1])
    assert differ(module(views, context, "mvt")[0][0], before[0])


def test_block_equals_its_formula() -> None:
    torch.manual_seed(0)
    block = GatedBlock(16, 2).double()
    tokens = torch.randn(3, 6, 16, dtype=torch.float64)
    attention = torch.nn.MultiheadAttention(16, 2, batch_first=True).double()
    with torch.no_grad():
        attention.in_proj_weight.copy_(block.qkv.weight)
        attention.in_proj_bias.zero_()
        attention.out_proj.load_state_dict(block.merge.state_dict())
    for group in (slice(0, 2), slice(2, 4), slice(4, 6)):
        own = tokens[:, group]
        normed = block.norm_attention(own)
        middle = own + attention(normed, normed, normed)[0]
        values, gates = block.gated(block.norm_network(middle)).split(64, -1)
        erf = gates * 0.5 * (1 + torch.erf(gates / 2**0.5))
        expected = middle + F.linear(values * erf, block.network.weight, block.network.bias)
        found = block(tokens, 3, None, RowDropout(0.0, None), "x")[:, group]
        torch.testing.assert_close(found, expected)


def test_dropout_keeps_its_share_and_is_independent_everywhere() -> None:
    dropout = RowDropout(0.1, torch.arange(40) * 1000)
    kept = dropout(torch.ones(40, 60, 64), "a")
    assert set(kept.flatten().tolist()) == {0.0, torch.tensor(1 / 0.9).item()}
    for axes in ((0, 1), (1, 2), (0, 2)):
        rates = (kept > 0).float().mean(axes)
        spread = (0.09 * len(rates) / kept.numel()) ** 0.5
        assert (rates - 0.9).abs().max() < 5 * spread
    other = dropout(torch.ones(40, 60, 64), "b")
    for axis in (None, 0, 1, 2):
        again = other if axis is None else kept.roll(1, axis)
        both = ((kept == 0) & (again == 0)).float().mean()
        assert both == pytest.approx(0.01, abs=5 * (0.01 / kept.numel()) ** 0.5)


def test_dropout_follows_the_row_alone() -> None:
    tokens, seed = torch.randn(4, 7, 16), torch.tensor([5, 6, 7, 8])
    together = RowDropout(0.3, seed)(tokens, "a")
    assert torch.equal(RowDropout(0.3, seed[2:])(tokens[2:], "a"), together[2:])
    assert torch.equal(RowDropout(0.0, seed)(tokens, "a"), tokens)
    torch.manual_seed(2)
    unseeded = RowDropout(0.3, None)(tokens, "a")
    torch.manual_seed(2)
    assert torch.equal(unseeded, torch.nn.functional.dropout(tokens, 0.3))


def test_the_transformer_drops_in_training_with_a_seed() -> None:
    module, seed = transformer(), torch.tensor([1, 2])
    still = module(*given(), "mvt")[0]
    moving = module(*given(seed), "mvt")[0]
    assert differ(moving, still)
    assert torch.equal(module(*given(seed), "mvt")[0], moving)
    assert differ(module(*given(seed), "other")[0], moving)
    assert torch.equal(module.eval()(*given(seed), "mvt")[0], still)


def test_every_parameter_receives_a_gradient() -> None:
    module = transformer()
    views, context = given()
    module(views, context, "mvt")[1].square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
