"""What stands in for the few names that RLBench's pickles use. All of it is inert."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(eq=False)
class Record:
    """An object of one of RLBench's classes, `Demo` or `Observation`: its attributes."""

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Array:
    """An array that the file builds, None until it is whole."""

    value: NDArray[Any] | None = None


def unpacked(value: Any) -> Any:
    """An array that the file built as numpy's, anything else as it is."""
    return value.value if isinstance(value, Array) else value


@dataclass(eq=False)
class DType:
    code: str
    order: str = "="

    def build(self, order: Any, *structure: Any) -> None:
        if order not in ("<", ">", "=", "|") or any(part is not None for part in structure):
            self.code = "structure"
        else:
            self.order = order

    def numpy(self) -> np.dtype[Any]:
        if not re.fullmatch(r"b1|[iu][1248]|f[248]", self.code):
            raise Refused(f"holds an array of {self.code!a}, where only numbers may be")
        return np.dtype(self.order + self.code)


class Refused(Exception):
    """Something that no recording of RLBench's asks for."""


@dataclass(frozen=True, eq=False)
class Name:
    """A name that files may use. rebuild: what stands in for calling it. record: of a class."""

    name: str
    rebuild: Callable[..., Any] | None = None
    record: bool = False


def array(content: bytes, dtype: DType, shape: tuple[int, ...], order: Any) -> NDArray[Any]:
    """A view of the content, which must have exactly the size that shape and dtype ask for."""
    kind = dtype.numpy()
    if not isinstance(content, bytes | bytearray) or not isinstance(shape, tuple):
        raise TypeError("an array without content or shape")
    if len(shape) > 8 or not all(isinstance(n, int) and 0 <= n < 2**31 for n in shape):
        raise ValueError("an array of an impossible shape")
    if math.prod(shape) * kind.itemsize != len(content):
        raise ValueError(f"an array of shape {shape} in {len(content)} bytes")
    return np.ndarray(shape, kind, content, order=order)


def _rebuild_empty(kind: Any, shape: tuple[int, ...], code: bytes) -> Array:
    if kind is not _NDARRAY or shape != (0,):
        raise Refused("reserves an array of a size of its own")
    return Array()


def _rebuild_buffer(content: bytes, dtype: DType, shape: tuple[int, ...], order: str) -> Array:
    return Array(array(content, dtype, shape, "F" if order == "F" else "C"))


def _rebuild_scalar(dtype: DType, content: bytes) -> Any:
    return array(content, dtype, (), "C").item()


def _rebuild_bytes(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise Refused(f"encodes as {encoding!a}")
    return text.encode("latin-1")


_NDARRAY = Name("numpy.ndarray")
_EMPTY = Name("_reconstruct", _rebuild_empty)
_SCALAR = Name("scalar", _rebuild_scalar)
_BUFFER = Name("_frombuffer", _rebuild_buffer)
_NAMES: Mapping[tuple[str, str], Name] = {
    ("rlbench.demo", "Demo"): Name("Demo", record=True),
    ("rlbench.backend.observation", "Observation"): Name("Observation", record=True),
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): Name("numpy.dtype", lambda code, *_: DType(code)),
    ("numpy.core.multiarray", "_reconstruct"): _EMPTY,
    ("numpy._core.multiarray", "_reconstruct"): _EMPTY,
    ("numpy.core.multiarray", "scalar"): _SCALAR,
    ("numpy._core.multiarray", "scalar"): _SCALAR,
    ("numpy.core.numeric", "_frombuffer"): _BUFFER,
    ("numpy._core.numeric", "_frombuffer"): _BUFFER,
    ("_codecs", "encode"): Name("_codecs.encode", _rebuild_bytes),  # bytes, in protocols 0 to 2
    ("__builtin__", "bytes"): Name("bytes", lambda: b""),  # no bytes, in protocols 0 to 2
}


def admitted(module: str, name: str) -> Name:
    if found := _NAMES.get((module, name)):
        return found
    asked = ascii(f"{module}.{name}").strip("'")
    raise Refused(f"asks for {asked[:200]}, which is not one of the names that RLBench's files use")
