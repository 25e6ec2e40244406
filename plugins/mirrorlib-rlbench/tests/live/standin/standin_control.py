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
failing_demos = 0.0
"""Demonstrations fail where the block's first number, drawn from [0, 1), is below."""
unplaceable = 0.0
"""A scene finds no place for the task where that number is below."""
breaking = False
"""Whether a task that found no place is broken until it is loaded anew."""
resets: list[Any] = []
"""The `demo` of every reset."""
