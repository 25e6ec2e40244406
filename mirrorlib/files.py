"""Small files that are either whole or as they were."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mirrorlib.errors import UserError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within the block an OSError is the user's to mend: a full disk, a folder that is closed."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); make room, then go on with "
            "train.resume=true"
        ) from error


def write_whole(path: Path, text: str) -> None:
    """Writes beside, flushes to the disk, then renames. Raises OSError."""
    beside = path.with_name(f".{path.name}.partial")
    with beside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def sha256(path: Path) -> str:
    """Of the file's content. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
