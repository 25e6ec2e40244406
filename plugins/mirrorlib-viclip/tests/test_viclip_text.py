"""Tokens, and classes by sentences."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mirrorlib import UserError, tokenizer
from mirrorlib_viclip import ViCLIP, ViCLIPConfig
from mirrorlib_viclip.zero_shot import TEMPLATES

START, END = 49406, 49407


def tokenize(texts: list[str], context_length: int = 32) -> torch.Tensor:
    return tokenizer.tokenize(texts, context_length)


def test_known_ids():
    """Those of ViCLIP's own tokenizer, and of transformers' with the same vocabulary."""
    ids = tokenize(["close the red jar", "put the money away in the safe on the top shelf"])
    assert ids.shape == (2, 32) and ids.dtype == torch.int64
    assert ids[0].tolist() == [START, 2660, 518, 736, 10837, END] + [0] * 26
    foreign = tokenize(["öffne die Schublade", "打开抽屉", "🤖 grip it"])
    assert foreign[0, :8].tolist() == [START, 7255, 1021, 1422, 2082, 11318, 10264, END]
    assert foreign[1, 1:12].tolist() == [162, 231, 241, 161, 120, 222, 162, 232, 121, 46096, 487]
    assert foreign[2, :6].tolist() == [START, 46146, 15521, 585, END, 0]
    assert ids[1, :13].tolist() == [
        *(START, 1983, 518, 2327, 1520, 530, 518, 2996, 525, 518, 1253, 10955, END)
    ]


@pytest.fixture(scope="module")
def pieces() -> list[bytes]:
    """What each id stands for, from the vocabulary file alone: 256 bytes, the same at the end of a
    word, then each merge of two. The file writes bytes as printable characters."""
    spec = importlib.util.find_spec("open_clip")
    assert spec is not None and spec.origin is not None
    with gzip.open(Path(spec.origin).parent / "bpe_simple_vocab_16e6.txt.gz") as file:
        merges = file.read().decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    plain = [*range(ord("!"), ord("~") + 1), *range(161, 173), *range(174, 256)]
    order = plain + [byte for byte in range(256) if byte not in plain]
    letters = [chr(byte) for byte in plain] + [chr(256 + i) for i in range(256 - len(plain))]
    byte_of = dict(zip(letters, order, strict=True))
    words = [*letters, *(letter + "</w>" for letter in letters)]
    words += ["".join(merge.split()) for merge in merges]

    def spelled(word: str) -> bytes:
        whole, end = word.removesuffix("</w>"), b" " if word.endswith("</w>") else b""
        return bytes(byte_of[letter] for letter in whole) + end

    return [spelled(word) for word in words]


def decoded(pieces: list[bytes], row: torch.Tensor) -> str:
    ids = row.tolist()
    assert ids[0] == START and not any(ids[ids.index(END) + 1 :])
    return b"".join(pieces[id] for id in ids[1 : ids.index(END)]).decode()


@pytest.mark.parametrize(
    "text", ["öffne die schublade", "ouvre le tiroir à côté", "打开抽屉", "открой ящик", "🤖 grip"]
)
def test_other_scripts_keep_their_letters(pieces, text):
    found = decoded(pieces, tokenize([text], context_length=77)[0])
    assert found.replace(" ", "") == text.replace(" ", "")


@settings(max_examples=60, deadline=None)
@given(words=st.lists(st.text("abcxyzéßñжя中", min_size=1, max_size=8), min_size=1, max_size=5))
def test_any_words_can_be_read_back(pieces, words):
    text = " ".join(words)
    found = decoded(pieces, tokenize([text], context_length=200)[0])
    assert found.split() == text.split()


def test_html_case_blanks_and_broken_encodings_are_cleaned():
    plain = tokenize(["push a & b, schön"])
    for text in (
        "push a &amp; b, schön",
        "push a &amp;amp; b, schön",
        "  PUSH\n a  &  B,\tSchön ",
        "push a & b, schÃ¶n",
    ):
        assert torch.equal(tokenize([text]), plain), text


def test_long_texts_keep_their_end():
    ids = tokenize(["red " * 60, "red " * 30, "red " * 31])
    assert (ids[:, 1:31] == ids[0, 1]).all()
    assert ids[:, 31].tolist() == [END] * 3 and ids[:, 0].tolist() == [START] * 3
    assert tokenize([""]).tolist() == [[START, END] + [0] * 30]
    assert tokenize([]).shape == (0, 32)


def test_a_missing_tokenizer_is_one_line(monkeypatch):
    tokenizer._tokenizer.cache_clear()
    monkeypatch.setattr(tokenizer, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install open_clip_torch"):
        tokenize(["push"])
    assert "pip install open_clip_torch" in (tokenizer.check() or "")
    monkeypatch.undo()
    assert tokenizer.check() is None


@pytest.fixture(scope="module")
def model() -> ViCLIP:
    torch.manual_seed(0)
    sizes = {"vision_layers": 1, "text_layers": 1, "image_size": 32, "num_frames": 2}
    return ViCLIP(ViCLIPConfig.preset("tiny", **sizes)).eval()


def test_texts_and_their_ids_are_encoded_alike(model):
    texts = ["push", "open the top drawer", "a red block " * 20]
    ids = model.tokenize(texts)
    encoded = model.encode_text(texts)
    torch.testing.assert_close(encoded, model.encode_text(ids))
    torch.testing.assert_close(encoded[:1], model.encode_text(texts[:1]))
    assert model.encode_text([]).shape == (0, 128)


def test_zero_shot_averages_similarities_over_sentences(model):
    clips = torch.randn(3, 2, 3, 32, 32)
    labels = ["opening a drawer", "closing a jar"]
    found = model.classify(clips, labels)
    with torch.no_grad():
        videos = model.encode_video(clips)
        for row, label in zip(found.T, labels, strict=True):
            cosines = [
                F.cosine_similarity(videos, model.encode_text([each.format(label)]))
                for each in TEMPLATES
            ]
            torch.testing.assert_close(row, torch.stack(cosines).mean(0))
    assert not found.requires_grad and len(set(TEMPLATES)) == 16
    one = model.classify(clips, labels, templates=["{} {braces}"])
    sentences = model.encode_text([f"{label} {{braces}}" for label in labels])
    torch.testing.assert_close(one, F.cosine_similarity(videos[:, None], sentences, dim=2))


def test_templates_need_a_place_for_the_label(model):
    clips = torch.zeros(1, 2, 3, 32, 32)
    with pytest.raises(UserError, match="where the label belongs"):
        model.classify(clips, ["push"], templates=["a video"])
    with pytest.raises(UserError, match="at least one label"):
        model.classify(clips, [])
