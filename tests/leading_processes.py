"""A process that leads a group, and the one that started it; imported without torch."""

from __future__ import annotations

import multiprocessing
import os
import time
from multiprocessing.connection import Connection

from mirrorlib.processes import end_with_parent


def start_leader(told: Connection) -> None:
    """Starts a worker process that has a child, and waits. Their ids are told."""
    multiprocessing.get_context("spawn").Process(target=_lead, args=(told,)).start()
    time.sleep(3600)


def _lead(told: Connection) -> None:
    os.setsid()
    end_with_parent()
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(3600,))
    child.start()
    told.send([os.getpid(), child.pid])
    time.sleep(3600)
