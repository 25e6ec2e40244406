"""Names of the controls, and what each is; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Control = Literal[
    "text_only",
    "null_instruction",
    "unshared_camera",
    "within_instruction",
    "text_alone",
    "shuffled",
]
"""What agreement is left when a part of the information is taken away."""

CONTROLS: Mapping[Control, str] = {
    "text_only": "the executor is told the instruction and shown nothing: pictures and depth are "
    "0, proprioception, cameras and actions those of one training step",
    "null_instruction": "the executor is told 'do the task', whatever the task",
    "unshared_camera": "the executor is not shown the cameras that the observer watches",
    "within_instruction": "from u and e the training mean of their instruction is taken away",
    "text_alone": "e is the instruction's number, one-hot: what the text can give at most",
    "shuffled": "the maps are fitted to training pairs shuffled at random: chance",
}

NEUTRAL = "do the task"
"""What the executor is told under `null_instruction`. Not the empty text: a text tower need not
take one (`words` refuses it)."""

ALTERED: tuple[Control, ...] = ("text_only", "null_instruction", "unshared_camera")
"""Those for which the executor must compute e anew."""
