"""X-CLIP's own text tower (Ni et al. 2022, arXiv 2208.02816), without video-specific prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mirrorlib.errors import UserError
from mirrorlib.interfaces import Text, TextEncoding
from mirrorlib_transformers.loading import Loaded


class XCLIPText(Text):
    """width: P, of the space where X-CLIP compares videos and texts. tokens and pooled are in it.

    model: an XCLIPModel, whose text parts are taken. tokenizer: its own.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.text_model, self.projection = model.text_model, model.text_projection
        self.tokenizer = tokenizer
        self.width = model.config.projection_dim
        self.context_length = model.config.text_config.max_position_embeddings

    def forward(self, texts: Sequence[str]) -> TextEncoding:
        """K texts. tokens: (K, L, P), zero where masked, L the tokens of the longest text, at most
        the context length."""
        inputs = self.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self.context_length,
            return_tensors="pt",
        ).to(self.projection.weight.device)
        output = self.text_model(**inputs)
        mask = inputs["attention_mask"].bool()
        tokens: Tensor = self.projection(output.last_hidden_state) * mask[..., None]
        return TextEncoding(tokens, mask, self.projection(output.pooler_output))


def own_text(loaded: Loaded, name: str) -> XCLIPText:
    """Raises UserError where the model is no X-CLIP, or lacks text weights or a tokenizer."""
    from transformers import AutoTokenizer

    model = loaded.model
    if model.config.model_type != "xclip":
        raise UserError(
            f"observer transformers: {name} is a {model.config.model_type}, which has no text "
            "tower; leave own_text out and name one in text"
        )
    if lacking := sorted(part for part in loaded.missing if part.startswith("text_")):
        raise UserError(
            f"observer transformers: {name} lacks {len(lacking)} weights of X-CLIP's text tower, "
            f"such as {lacking[0]}; give a checkpoint of the whole model"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        if len(tokenizer) <= len(tokenizer.all_special_ids):  # transformers made an empty one up
            raise OSError("its files are missing")
    except Exception as error:
        raise UserError(
            f"observer transformers: {name} has no tokenizer ({' '.join(str(error).split())[:120]})"
            "; add its tokenizer.json, or leave own_text out"
        ) from error
    return XCLIPText(model, tokenizer)


def start_as_identity(*heads: nn.Linear) -> None:
    """Linear maps (P, P) that at first change nothing."""
    for head in heads:
        nn.init.eye_(head.weight)
        nn.init.zeros_(head.bias)
