"""One process at a time in a folder."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mirrorlib.errors import UserError
from mirrorlib.files import write_whole

LOCK, HOLDER = ".lock", ".holder"


@contextmanager
def alone_in(folder: Path) -> Iterator[bool]:
    """Within the block no other process is in such a block. Another is waited for, and named.

    Yields whether there was one. The lock ends with the process, however that ends. Raises
    UserError where the folder's file system has no locks.
    """
    lock, holder = FileLock(folder / LOCK), folder / HOLDER
    try:
        waited = not _taken(lock)
        if waited:
            print(f"mirrorlib: {folder}: waiting for {_told(holder)}", file=sys.stderr, flush=True)
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise UserError(
            f"{folder}: cannot be locked ({error}); set data.cache to a folder on a disk that can"
        ) from error
    try:
        with contextlib.suppress(OSError):  # it only tells others
            write_whole(holder, f"process {os.getpid()} on {socket.gethostname()}")
        yield waited
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _taken(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:  # an OSError, too
        return False
    return True


def _told(holder: Path) -> str:
    try:
        return f"{holder.read_text()}, which records there"
    except OSError:
        return "another process, which records there"
