"""Published weights: where they are, sizes from shapes, embeddings resized."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from mirrorlib.errors import UserError, suggestion
from mirrorlib.pretrained import refuse_misfits
from mirrorlib_viclip.config import ViCLIPConfig

HEAD_WIDTH = 64
PLACE = "vision_encoder.positional_embedding"
TIME = "vision_encoder.temporal_positional_embedding"
SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")


def located(weights: str) -> Path:
    """The file that `weights` names: itself, or one fetched from the Hugging Face hub
    (`organisation/name`, whose model.safetensors is meant, or `organisation/name:file`). Raises
    UserError."""
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    named = re.fullmatch(r"([\w.-]+/[\w.-]+?)(?::(.+))?", weights)
    if named is None or (named[2] is None and path.suffix in SUFFIXES):
        raise UserError(
            f"weights {weights}: no such file; give a checkpoint, or a repository of the hub as "
            "organisation/name or organisation/name:file"
        )
    repository, name = named[1], named[2] or "model.safetensors"
    try:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(repository, name))
    except Exception as error:  # offline, refused, no such repository or file, not installed
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"weights {weights}: {name} of {repository} cannot be fetched ({reason}); "
            "download the file elsewhere and give its path"
        ) from None


def inferred(state: Mapping[str, Tensor], source: str, **known: Any) -> ViCLIPConfig:
    """The sizes of a state dict, of which some may be known. Heads that are not known are 64 wide.
    Raises UserError, which names `source`, where sizes cannot be told or do not go together."""
    if missing := ViCLIPConfig.model_fields.keys() - known.keys():
        sizes = _Shapes(state, source).sizes(missing, known)
        known = {name: size for name, size in sizes.items() if name in missing} | known
    try:
        return ViCLIPConfig(**known)
    except ValidationError as error:
        found = "; ".join(str(each["msg"]) for each in error.errors())
        raise UserError(f"{source}: {found}") from None


class _Shapes:
    """What the shapes of a state dict tell."""

    def __init__(self, state: Mapping[str, Tensor], source: str) -> None:
        self.state, self.source = state, source

    def sizes(self, missing: Collection[str], known: Mapping[str, Any]) -> dict[str, int]:
        width, _, _, patch, _ = self.shape("vision_encoder.conv1.weight", 5)
        places, _ = self.shape(PLACE, 2)
        grid = _grid(places, self.source)
        vocabulary, text_width = self.shape("text_encoder.token_embedding.weight", 2)
        sizes = {
            "image_size": grid * patch,
            "patch_size": patch,
            "vision_width": width,
            "vision_layers": self.layers("vision_encoder"),
            "embed_dim": self.shape("vision_encoder.proj", 2)[1],
            "num_frames": self.shape(TIME, 3)[1],
            "context_length": self.shape("text_encoder.positional_embedding", 2)[0],
            "vocab_size": vocabulary,
            "text_width": text_width,
            "text_layers": self.layers("text_encoder"),
        }
        for heads, tower in (("vision_heads", "vision_width"), ("text_heads", "text_width")):
            if heads in missing:
                sizes[heads] = self.heads(known.get(tower, sizes[tower]), heads)
        return sizes

    def shape(self, key: str, axes: int) -> list[int]:
        if key not in self.state:
            close = suggestion(key, self.state)
            raise UserError(f"{self.source}: lacks {key!r}, so is no ViCLIP checkpoint{close}")
        shape = list(self.state[key].shape)
        if len(shape) != axes:
            raise UserError(f"{self.source}: {key!r} has shape {shape}, expected {axes} axes")
        return shape

    def layers(self, tower: str) -> int:
        """One more than the largest number of a layer."""
        numbers = re.compile(re.escape(tower) + r"\.transformer\.resblocks\.(\d+)\.")
        found = [int(match[1]) for key in self.state if (match := numbers.match(key))]
        return max(found, default=0) + 1

    def heads(self, width: int, name: str) -> int:
        if width % HEAD_WIDTH:
            raise UserError(
                f"{self.source}: {name} cannot be told, since width {width} is no multiple of "
                f"{HEAD_WIDTH}; give config="
            )
        return width // HEAD_WIDTH


def fitted(
    state: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], source: str
) -> dict[str, Tensor]:
    """A copy of the state dict in float32, with the shapes that the model has.

    As in InternVideo (models/utils.py, viclip_vision.py) the embeddings of place are resized by
    bicubic interpolation, but for the class token's; those of time by linear interpolation where
    there are to be more, and the first ones are kept where there are to be fewer. Raises
    UserError, which names `source`, for keys that are missing or too many and for other shapes.
    """
    resized = dict(state)
    if PLACE in state:
        resized[PLACE] = _resized_places(state[PLACE].float(), shapes[PLACE][0], source)
    if TIME in state:
        resized[TIME] = _resized_times(state[TIME].float(), shapes[TIME][1])
    refuse_misfits(resized, shapes, source, "this ViCLIP")
    return {name: resized[name].to(torch.float32, copy=True).contiguous() for name in shapes}


def _grid(places: int, source: str) -> int:
    grid = math.isqrt(max(places - 1, 0))
    if grid < 1 or grid**2 != places - 1:
        raise UserError(f"{source}: {PLACE!r} has {places} rows, expected 1 and a square number")
    return grid


def _resized_places(places: Tensor, wanted: int, source: str) -> Tensor:
    """places: (1 + g g, W). Returns (wanted, W)."""
    if places.ndim != 2 or len(places) == wanted:
        return places
    old, new = _grid(len(places), source), _grid(wanted, source)
    grid = places[1:].unflatten(0, (old, old)).permute(2, 0, 1)[None]
    grid = F.interpolate(grid, (new, new), mode="bicubic", align_corners=False)[0]
    return torch.cat([places[:1], grid.flatten(1).T])


def _resized_times(times: Tensor, wanted: int) -> Tensor:
    """times: (1, T, W). Returns (1, wanted, W)."""
    if times.ndim != 3 or times.shape[1] >= wanted:
        return times[:, :wanted]
    return F.interpolate(times.transpose(1, 2), wanted, mode="linear").transpose(1, 2)
