"""Whether a file of recorded data holds, to the bit, what was written.

Its header says under which name it was written, what its source's files were then (the stamp), and
the CRC-32 of the whole file with zeros in the checksum's place: every single flipped bit, and
every burst of up to 32, changes that.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import BinaryIO

from mirrorlib.errors import UserError

_MARK, _ZEROS = rb"\"checksum\": \"", b"00000000"
"""What stands before the checksum in the header's JSON, which holds what is told of the episode as
a string of JSON (quotes within its texts are escaped twice), and what is summed in its place."""
UNSEALED = {"checksum": _ZEROS.decode()}
"""Told of an episode whose file `sealed` is to complete."""
_PORTION = 2**18
"""Bytes summed at once: they stay in the processor's cache."""
Identity = tuple[int, int, int]


def sealed(content: bytes) -> bytes:
    """The content of a safetensors file with its checksum in place."""
    place = content.index(_MARK) + len(_MARK)
    return content[:place] + b"%08x" % zlib.crc32(content) + content[place + len(_ZEROS) :]


def verified(path: Path) -> str:
    """The stamp of an episode whose file is as it was written, under that name. Raises UserError,
    in a line without advice, where it is not."""
    try:
        with path.open("rb", buffering=0) as file:
            header = read_header(file)
            before, mark, after = header.partition(_MARK)
            told, after = after[: len(_ZEROS)], after[len(_ZEROS) :]
            found = zlib.crc32(len(header).to_bytes(8, "little") + before + mark + _ZEROS + after)
            portion = bytearray(_PORTION)
            while size := file.readinto(portion):
                found = zlib.crc32(memoryview(portion)[:size], found)
        if told != b"%08x" % found:
            raise ValueError("its checksum differs")
        episode = json.loads(json.loads(header)["__metadata__"]["episode"])
        if episode["name"] != stored_name(path):
            raise ValueError(f"it was written as {episode['name']}")
        stamp: str = episode["stamp"]
    except (AttributeError, OSError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{path}: a damaged file of recorded data ({reason(error)})") from error
    return stamp


def read_header(file: BinaryIO) -> bytes:
    """JSON, as it begins a safetensors file. Raises ValueError where it is not whole."""
    begin = file.read(8)
    length = int.from_bytes(begin, "little")
    if len(begin) < 8 or length > os.fstat(file.fileno()).st_size - 8:
        raise ValueError("it is cut short")
    return file.read(length)


def identity(file: Path | int) -> Identity:
    """Another whenever the file was replaced, cut, lengthened or written to. Raises OSError."""
    status = os.stat(file)
    return status.st_ino, status.st_size, status.st_mtime_ns


def stored_name(path: Path) -> str:
    """split/task/variation-index.safetensors, wherever the cache lies."""
    return "/".join(path.parts[-3:])


def reason(error: Exception) -> str:
    """Why a file could not be read, in some words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
