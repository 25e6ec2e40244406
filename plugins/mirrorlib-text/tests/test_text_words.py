"""The words tower: stable hashing, masking, gradients."""

import hashlib
import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError

from mirrorlib_text.config import WordsConfig
from mirrorlib_text.words import Words, word_ids

TEXTS = ["push the red button", "open the drawer", "stack"]


def tower(**options: int) -> Words:
    torch.manual_seed(0)
    return Words(WordsConfig(**{"width": 32, "buckets": 256} | options))


def test_ids_are_a_function_of_the_letters() -> None:
    digest = hashlib.blake2b(b"red", digest_size=16).digest()
    expected = (
        int.from_bytes(digest[:8], "little") % 100,
        100 + int.from_bytes(digest[8:], "little") % 100,
    )
    assert word_ids("Push the RED, button!", 100)[2] == expected
    code = "from mirrorlib_text.words import word_ids; print(word_ids('push the red button', 99))"
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert other.strip() == str(word_ids("push the red button", 99))


def test_the_two_hashes_are_independent() -> None:
    """Of 4,000 words in 64 x 64 pairs of buckets, about 1 - exp(-1) of the pairs are met."""
    pairs = {word_ids(f"w{i}", 64)[0] for i in range(4096)}
    assert len(pairs) == pytest.approx(4096 * (1 - 0.36788), rel=0.05)


def test_shapes_and_mask() -> None:
    encoding = tower()(TEXTS)
    assert encoding.tokens.shape == (3, 4, 32)
    assert encoding.mask.sum(1).tolist() == [4, 3, 1]
    assert encoding.pooled.shape == (3, 32)
    assert not encoding.tokens[~encoding.mask].any()


@pytest.mark.parametrize("training", [True, False])
def test_a_text_does_not_depend_on_its_neighbours(training: bool) -> None:
    module = tower().train(training)
    with torch.no_grad():
        together = module(TEXTS)
        for row, text in enumerate(TEXTS):
            alone = module([text])
            words = len(text.split())
            torch.testing.assert_close(alone.pooled[0], together.pooled[row])
            torch.testing.assert_close(alone.tokens[0], together.tokens[row, :words])


def test_pooled_is_the_mean_of_words_without_layers() -> None:
    module = tower(layers=0).double()
    pooled = module(["open the drawer"]).pooled[0]
    embedded = torch.stack(
        [
            module.embedding.weight[a] + module.embedding.weight[b]
            for a, b in word_ids("open the drawer", 256)
        ]
    )
    expected = module.bag(embedded.mean(0)) + (embedded + module.position[:3]).mean(0)
    torch.testing.assert_close(pooled, expected)


def test_word_order_matters() -> None:
    pooled = tower()(["red on blue", "blue on red"]).pooled
    assert (pooled[0] - pooled[1]).abs().max() > 1e-4


def test_long_texts_are_cut() -> None:
    module = tower(max_words=3)
    encoding = module(["a b c d e", "a b c"])
    assert encoding.tokens.shape[1] == 3
    torch.testing.assert_close(encoding.pooled[0], encoding.pooled[1])


@pytest.mark.parametrize("text", ["", "  ", "?!"])
def test_a_text_without_words_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="at least one word"):
        tower()(["open", text])


def test_every_parameter_learns_from_the_pooled_vector() -> None:
    module = tower()
    module(TEXTS).pooled.square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


def test_initialisation_follows_the_global_seed() -> None:
    torch.testing.assert_close(tower().state_dict(), tower().state_dict(), rtol=0, atol=0)


def test_heads_must_divide_width() -> None:
    with pytest.raises(ValidationError, match="multiple of heads"):
        WordsConfig(width=30)
