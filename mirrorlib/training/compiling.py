"""`train.compile`: the encoders' training passes through torch.compile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from mirrorlib.errors import UserError
from mirrorlib.interfaces import Text
from mirrorlib.tracing import marks_heeded
from mirrorlib.training.joint import Joint

BACKEND = "inductor"


@contextmanager
def compiled(joint: Joint, device: torch.device) -> Iterator[None]:
    """Within the block `forward` of observer and executor is compiled as it is first called;
    parameters keep their names. Texts are encoded as ever: a graph is made for values of one
    shape, and strings have none. Raises UserError where this machine cannot compile."""
    _require_compiler(device)
    changed: list[tuple[nn.Module, str]] = [(joint.observer, "encode_text")]
    changed += [(module, "forward") for module in joint.modules() if isinstance(module, Text)]
    for module, name in changed:
        setattr(module, name, torch.compiler.disable(getattr(module, name)))
    encoders: tuple[nn.Module, ...] = (joint.observer, joint.executor)
    for encoder in encoders:
        encoder.forward = torch.compile(encoder.forward, backend=BACKEND)
        changed.append((encoder, "forward"))
    try:
        with marks_heeded():
            yield
    finally:
        for module, name in changed:
            delattr(module, name)


def _require_compiler(device: torch.device) -> None:
    """Compiles next to nothing, where a mistake of the machine shows before training begins."""
    try:
        torch.compile(torch.sin, backend=BACKEND)(torch.ones(2, device=device))
    except Exception as error:  # dynamo, inductor, triton and the compiler each raise their own
        line = " ".join(str(error).split())[:160]
        needed = "a C++ compiler, such as g++" if device.type == "cpu" else "triton"
        raise UserError(
            f"train.compile: torch.compile does not work on this machine ({line}); install "
            f"{needed}, or leave train.compile out"
        ) from error
