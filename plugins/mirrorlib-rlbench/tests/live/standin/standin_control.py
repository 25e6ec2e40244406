"""What the tests tell the stand-in of RLBench to do, and what it was asked."""

from __future__ import annotations

import os
from typing import Any

PERACT = os.environ.get("STANDIN_VINTAGE") == "peract"
running: Any = None
"""The Environment that is launched; CoppeliaSim is once in a process."""
launches: list[Any] = []
sent: list[Any] = []
"""Every action that reached an arm, with ignore_collisions where the vintage has it."""
verdicts: list[bool] = []
"""What the planner says of the next scenes it is asked to judge; afterwards it accepts all."""
errors: list[Exception] = []
"""Raised by the next movements of the arm."""
failing_demos = 0
"""How many of the next demonstrations fail."""
unplaceable = 0
"""How many of the next resets find no place for the task."""
resets: list[Any] = []
"""The `demo` of every reset."""
