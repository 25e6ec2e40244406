"""The sentence encoder: a tiny one by path, the packaged one where it is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import mirrorlib
from mirrorlib.errors import UserError
from mirrorlib_text import sentence

transformers = pytest.importorskip("transformers", exc_type=Exception)

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "open", "the", "drawer", "close", "it"]
TEXTS = ["open the drawer", "close it", "open"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A random BERT of four numbers a word, with weights large enough to matter."""
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    tokenizer = transformers.BertTokenizer(str(tmp_path / "vocab.txt"), model_max_length=6)
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=12,
    )  # fmt: skip
    model = transformers.BertModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    model.save_pretrained(tmp_path)
    return tmp_path


def build(model: object, **options: Any) -> Any:
    return mirrorlib.build("text", "sentence", model=str(model), **options)


def test_it_is_the_masked_mean_of_transformers_own_encoder(folder: Path):
    model = transformers.BertModel.from_pretrained(folder).eval()
    found = build(folder)(TEXTS)
    assert found.tokens.shape == (3, 5, 8) and found.mask.sum(1).tolist() == [5, 4, 3]
    for row, text in enumerate(TEXTS):
        ids = torch.tensor([[2, *(WORDS.index(word) for word in text.split()), 3]])
        with torch.no_grad():
            tokens = model(input_ids=ids).last_hidden_state[0]
        torch.testing.assert_close(found.tokens[row, : len(tokens)], tokens, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.pooled[row], tokens.mean(0), rtol=1e-4, atol=1e-5)
        assert not found.tokens[row, len(tokens) :].any()


def test_padding_changes_nothing(folder: Path):
    tower = build(folder).tower
    with torch.no_grad():
        together, alone = tower(TEXTS), tower(TEXTS[2:])
    torch.testing.assert_close(together.pooled[2:], alone.pooled)


def test_long_texts_are_cut_and_nothing_learns(folder: Path):
    tower = build(folder, max_tokens=4)
    assert tower(["open the drawer"]).mask.sum() == 4
    assert build(folder)(["open the drawer close it open"]).mask.sum() == 6
    assert not any(p.requires_grad for p in tower.parameters())
    assert not any("pooler" in name for name in tower.state_dict())


def test_what_does_not_load_is_told_in_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch):
    state = load_file(folder / "model.safetensors")
    del state["encoder.layer.1.output.dense.bias"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        UserError, match=r"lacks 1 of its weights, such as .*1\.output\.dense\.bias"
    ):
        build(folder)
    for file in folder.glob("*tok*"):
        file.unlink()
    (folder / "vocab.txt").unlink()
    with pytest.raises(UserError, match="the tokenizer's files are missing"):
        build(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"does not load .*give a folder") as caught:
        build(folder)
    assert len(caught.value.lines) == 1 and len(caught.value.lines[0]) < 600
    monkeypatch.setattr(sentence, "PACKAGE", "a_package_that_is_not_there")
    with pytest.raises(UserError, match=r"not installed; run `pip install 'mirrorlib-text\[sente"):
        mirrorlib.build("text", "sentence")


def test_code_of_a_folder_never_runs(folder: Path):
    """A folder whose configuration asks for its own Python file."""
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "strange", "auto_map": {"AutoModel": "own.Model",
                                                      "AutoConfig": "own.Config"}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('code of the folder ran')")
    with pytest.raises(UserError, match="does not load"):
        build(folder)


def test_the_packaged_encoder_knows_what_words_mean():
    pytest.importorskip(sentence.PACKAGE, exc_type=Exception)
    tower = mirrorlib.build("text", "sentence")
    assert tower.width == 384
    pooled = tower(["pull the drawer open", "open the drawer", "screw in the light bulb"]).pooled
    near, far = torch.cosine_similarity(pooled[:1], pooled[1:])
    assert near > 0.8 and far < 0.4
