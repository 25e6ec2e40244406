"""A camera's PNG files as one array, of which only what is asked for is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray
from PIL import Image

from mirrorlib.errors import UserError

LARGEST = 4096
"""Pixels a side at most."""
DEFLATE = 1100
"""No PNG holds more bytes of picture than this many for each of its own (deflate: 1032)."""


class Pictures(NDArrayOperatorsMixin):
    """Frames of one camera: an array (T, H, W, 3) uint8, or (T, H, W) float32 in metres.

    `pictures[3]`, `pictures[2:5]`, `pictures[[1, 7], :64]` decode just those frames; whatever
    needs the whole array (`np.asarray`, comparisons, arithmetic) decodes all. Nothing is kept.
    Raises UserError, naming the file, for one that is missing, damaged or of another size.
    """

    def __init__(self, files: Sequence[Path], near_far: NDArray[np.float64] | None = None) -> None:
        """files: T of them. near_far: (T, 2) metres, for depth; None: colours."""
        self.files, self.near_far = tuple(files), near_far

    @cached_property
    def shape(self) -> tuple[int, ...]:
        with _opened(self.files[0]) as picture:
            width, height = picture.size
        return (len(self.files), height, width, *(() if self.near_far is not None else (3,)))

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8 if self.near_far is None else np.float32)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self._frame(row) for row in range(len(self)))

    def __getitem__(self, key: Any) -> Any:
        first, *rest = key if isinstance(key, tuple) and key else (key,)
        if first is None or first is Ellipsis:
            return np.asarray(self)[key]
        rows = np.arange(len(self))[first]
        if rows.ndim == 0:
            return self._frame(int(rows))[tuple(rest)]
        frames = np.empty((rows.size, *self.shape[1:]), self.dtype)
        for place, row in enumerate(rows.flat):
            frames[place] = self._frame(int(row))
        frames = frames.reshape(*rows.shape, *self.shape[1:])
        return frames[(slice(None),) * rows.ndim + tuple(rest)] if rest else frames

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("pictures are decoded anew: an array of them is always a copy")
        return np.asarray(self[:], dtype)

    def __array_ufunc__(
        self, function: Callable[..., Any], method: str, *inputs: Any, **options: Any
    ) -> Any:
        arrays = [np.asarray(part) if isinstance(part, Pictures) else part for part in inputs]
        return getattr(function, method)(*arrays, **options)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.shape} {self.dtype} of {self.files[0].parent}>"

    def _frame(self, row: int) -> NDArray[Any]:
        file = self.files[row]
        colours = _colours(file)
        if colours.shape[:2] != self.shape[1:3]:
            raise UserError(
                f"{file}: {colours.shape[1]} x {colours.shape[0]} pixels, but {self.files[0].name} "
                f"beside it has {self.shape[2]} x {self.shape[1]}; fetch the episode again"
            )
        if self.near_far is None:
            return colours
        near, far = self.near_far[row]
        red, green, blue = np.moveaxis(colours.astype(np.uint32), -1, 0)
        share = (red << 16 | green << 8 | blue) / (2.0**24 - 1)
        return (near + share * (far - near)).astype(np.float32)


def _opened(file: Path) -> Image.Image:
    """The picture, not yet decoded, of a size that its file can hold."""
    try:
        picture = Image.open(file, formats=["PNG"])
        width, height = picture.size
        if max(width, height) > LARGEST or 3 * width * height > DEFLATE * file.stat().st_size:
            picture.close()
            raise UserError(f"{file}: claims {width} x {height} pixels; fetch the episode again")
        return picture
    except FileNotFoundError:
        raise UserError(f"{file}: missing; fetch the episode again") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _damaged(file, error) from error


def _colours(file: Path) -> NDArray[np.uint8]:
    """(H, W, 3)."""
    with _opened(file) as picture:
        if picture.mode not in ("RGB", "RGBA"):
            raise UserError(f"{file}: of mode {picture.mode}; expected a PNG of red, green, blue")
        try:
            return np.array(picture)[..., :3]
        except (OSError, ValueError, SyntaxError) as error:
            raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split()).removesuffix(f" '{file}'")
    return UserError(f"{file}: a damaged picture ({reason}); fetch the episode again")
