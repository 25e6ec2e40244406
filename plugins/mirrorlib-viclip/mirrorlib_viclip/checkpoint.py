"""Published weights: read without running code, sizes from shapes, embeddings resized."""

from __future__ import annotations

import math
import os
import pickle
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from mirrorlib.errors import UserError, suggestion
from mirrorlib_viclip.config import ViCLIPConfig

HEAD_WIDTH = 64
PLACE = "vision_encoder.positional_embedding"
TIME = "vision_encoder.temporal_positional_embedding"
SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
_SHOWN = 3
"""Keys named in a message; the others are counted."""


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


def read(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Names to tensors of a `.safetensors` file, or of what torch.save wrote: a state dict, or one
    under "model" or "module". Raises UserError where the file is missing, is none of these, or
    asks for code to be run."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a .pth or .safetensors checkpoint of ViCLIP")
    content: Any = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    for wrapper in ("model", "module"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path}: holds no state dict, flat or under 'model' or 'module'")
    for name, tensor in content.items():
        if not (isinstance(name, str) and isinstance(tensor, Tensor)):
            raise UserError(
                f"{path}: {name!r} is no tensor; expected a state dict, flat or under 'model' or "
                "'module'"
            )
    return dict(content)


def _safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:
        raise UserError(f"{path}: is no safetensors file ({_first_line(error)})") from None


def _pickled(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted is None:
            raise UserError(f"{path}: is no checkpoint that torch.save wrote") from None
        raise UserError(
            f"{path}: refused, since it asks for {wanted[1]} and would run code; save its state "
            "dict alone, as .pth or .safetensors"
        ) from None
    except Exception as error:
        raise UserError(f"{path}: is no checkpoint ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


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
    _check_keys(state, shapes, source)
    resized = {name: state[name].to(torch.float32, copy=True).contiguous() for name in shapes}
    resized[PLACE] = _resized_places(resized[PLACE], shapes[PLACE][0], source)
    resized[TIME] = _resized_times(resized[TIME], shapes[TIME][1])
    wrong = [
        f"{name!r} has shape {list(state[name].shape)}, expected {list(shapes[name])}"
        for name, tensor in resized.items()
        if tensor.shape != torch.Size(shapes[name])
    ]
    if wrong:
        raise UserError(f"{source}: {_some(wrong)}; give the sizes it was trained with")
    return resized


def _check_keys(
    state: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], source: str
) -> None:
    missing = [name for name in shapes if name not in state]
    surplus = [name for name in state if name not in shapes]
    problems = []
    if missing:
        problems.append(f"lacks {_some([repr(name) for name in missing])}")
    if surplus:
        problems.append(f"has {_some([repr(name) for name in surplus])}, not a key of ViCLIP")
    if problems:
        close = suggestion(missing[0], surplus) if missing else ""
        raise UserError(
            f"{source}: {'; '.join(problems)}{close}; expected {len(shapes)} keys, found "
            f"{len(state)}: rename or remove them, or give the sizes it was trained with"
        )


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


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
