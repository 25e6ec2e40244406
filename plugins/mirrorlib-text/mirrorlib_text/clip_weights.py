"""CLIP's text weights from OpenAI's, open_clip's or transformers' files, and their sizes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mirrorlib.errors import UserError
from mirrorlib.pretrained import load_whole, read_weights

OWN = re.compile(
    r"(token_embedding\.weight|positional_embedding|transformer\.resblocks\.\d+\..+|ln_final\..+)"
)
"""OpenAI's names of the text tower, without what may stand before them."""
RENAMED = (
    (r"embeddings\.token_embedding\.", "token_embedding."),
    (r"embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"encoder\.layers\.(\d+)\.", r"transformer.resblocks.\1."),
    (r"layer_norm(\d)\.", r"ln_\1."),
    (r"mlp\.fc1\.", "mlp.c_fc."),
    (r"mlp\.fc2\.", "mlp.c_proj."),
    (r"self_attn\.", "attn."),
    (r"final_layer_norm\.", "ln_final."),
)
"""transformers' names."""
REQUIRED = {
    "token_embedding.weight",
    "positional_embedding",
    "transformer.resblocks.0.ln_1.weight",
    "ln_final.weight",
}
"""Without these, the sizes cannot be told and it is no text tower of CLIP's."""
FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class ClipWeights:
    """A text tower's weights under OpenAI's names, and what they tell of it."""

    source: str
    state: Mapping[str, Tensor]
    heads: int
    activation: Literal["quick_gelu", "gelu"]

    @property
    def width(self) -> int:
        return self.state["token_embedding.weight"].shape[1]

    @property
    def vocabulary(self) -> int:
        return self.state["token_embedding.weight"].shape[0]

    @property
    def context_length(self) -> int:
        return self.state["positional_embedding"].shape[0]

    @property
    def layers(self) -> int:
        numbers = [int(name.split(".")[2]) for name in self.state if ".resblocks." in name]
        return max(numbers) + 1

    def load_into(self, tower: nn.Module) -> None:
        """Raises UserError where a name is missing or surplus, or a shape is another."""
        load_whole(tower, self.state, f"text clip: {self.source}", "CLIP's text tower")


def read_clip(weights: str) -> ClipWeights:
    """weights: a file, a folder of transformers', or a hub id. Raises UserError."""
    path = Path(weights)
    if path.is_file():
        file, config = path, path.parent / "config.json"
    elif path.is_dir():
        file = next((path / name for name in FILES if (path / name).is_file()), path / FILES[0])
        config = path / "config.json"
        if not file.is_file():
            raise UserError(f"text clip: {path} holds neither {' nor '.join(FILES)}")
    else:
        file, config = _downloaded(weights)
    state = _renamed(read_weights(file))
    if absent := sorted(REQUIRED - set(state)):
        raise UserError(
            f"text clip: {weights} holds no text tower of CLIP's (no {absent[0]}); give other "
            "weights"
        )
    options = _text_options(config)
    heads = options.get("num_attention_heads", max(1, state["ln_final.weight"].numel() // 64))
    activation = options.get("hidden_act", "quick_gelu")
    if activation not in ("quick_gelu", "gelu"):
        raise UserError(f"text clip: {config} asks for hidden_act {activation!r}; it is not CLIP's")
    return ClipWeights(weights, state, heads, activation)


def _downloaded(name: str) -> tuple[Path, Path]:
    """Weights and config.json of a hub id. Raises UserError."""
    problem: Exception | None = None
    try:
        from huggingface_hub import hf_hub_download

        config = Path(hf_hub_download(name, "config.json"))
        for file in FILES:
            try:
                return Path(hf_hub_download(name, file)), config
            except Exception as error:  # the hub's, the network's, the disk's
                problem = error
    except Exception as error:
        problem = error
    raise UserError(
        f"text clip: weights {name!r} is neither a file nor a folder, and the hub does not give it "
        f"({type(problem).__name__}); fetch it where there is a network, and give its path"
    ) from problem


def _text_options(config: Path) -> Mapping[str, Any]:
    """What transformers' config.json says of the text tower; nothing where it is not there, or
    somebody else's."""
    try:
        content = json.loads(config.read_text())
    except OSError:
        return {}
    except ValueError as error:
        raise UserError(f"text clip: {config} is no JSON ({error})") from error
    if not str(content.get("model_type", "")).startswith("clip"):
        return {}
    return {
        "hidden_act": "quick_gelu",
        "num_attention_heads": 8,
        **content.get("text_config", content),
    }


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The text tower alone, under OpenAI's names. Its own part of a whole CLIP may stand under a
    prefix (`text_model.`, `text.`); vision, projection and buffers are left out."""
    marks = [name for name in state if name.endswith("token_embedding.weight")]
    if len(marks) != 1:
        return {}
    stem = marks[0].removesuffix("token_embedding.weight")
    prefix = stem.removesuffix("embeddings.")
    inner = {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
    if stem == prefix:
        return {name: value for name, value in inner.items() if OWN.fullmatch(name)}
    renamed = {}
    for name, value in inner.items():
        for pattern, own in RENAMED:
            name = re.sub(rf"(?:^|(?<=\.)){pattern}", own, name)
        renamed[name] = value
    return _joined({name: value for name, value in renamed.items() if OWN.fullmatch(name)})


def _joined(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values, which transformers keeps apart, as one `in_proj`."""
    joined = {name: value for name, value in state.items() if not re.search(r"\.[qkv]_proj", name)}
    for name in state:
        if ".q_proj." in name:
            parts = [state.get(name.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
            kept = [part for part in parts if part is not None]
            joined[name.replace(".q_proj.", ".in_proj_")] = torch.cat(kept)
    return joined
