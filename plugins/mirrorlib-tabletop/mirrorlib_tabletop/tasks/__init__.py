"""The six tasks, by name."""

from __future__ import annotations

from mirrorlib_tabletop.tasks.base import Task
from mirrorlib_tabletop.tasks.lift_block import LiftBlock
from mirrorlib_tabletop.tasks.open_drawer import OpenDrawer
from mirrorlib_tabletop.tasks.push_buttons import PushButtons
from mirrorlib_tabletop.tasks.slide_block_to_color_target import SlideBlockToColorTarget
from mirrorlib_tabletop.tasks.stack_blocks import StackBlocks
from mirrorlib_tabletop.tasks.turn_tap import TurnTap

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (PushButtons, OpenDrawer, StackBlocks, TurnTap, SlideBlockToColorTarget, LiftBlock)
}
VARIATIONS: dict[str, int] = {name: len(task.words) for name, task in TASKS.items()}

__all__ = ["TASKS", "VARIATIONS", "Task"]
