"""How large a model is, and how much a step computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.utils.flop_counter import FlopCounterMode

from mirrorlib.training.joint import Joint


def parameter_counts(joint: Joint) -> dict[str, tuple[int, int]]:
    """Of observer, executor and alignment: numbers in all parameters, and in those that learn."""
    learning = joint.parameter_groups()
    return {
        part: (
            sum(p.numel() for module in modules for p in module.parameters()),
            sum(p.numel() for p in learning.get(part, ())),
        )
        for part, modules in joint.parts().items()
    }


def costs(joint: Joint, flops: int | None) -> dict[str, float]:
    """How large each part is and how much a step computes (None: not counted), as metrics."""
    found = {}
    for part, (every, learning) in parameter_counts(joint).items():
        found[f"cost/{part}/parameters"] = float(every)
        found[f"cost/{part}/parameters_learning"] = float(learning)
    if flops is not None:
        found["cost/step_flops"] = float(flops)
    return found


def describe_sizes(joint: Joint) -> Iterator[str]:
    """A line for each part that has parameters."""
    dims = {
        "observer": f", representation {joint.observer.representation_dim}",
        "executor": f", representation {joint.executor.representation_dim}",
    }
    for part, (count, learning) in parameter_counts(joint).items():
        if count:
            frozen = "" if learning == count else f", {learning / 1e6:.2f} M learn"
            yield f"{part:<10}  {count / 1e6:.2f} M parameters{frozen}{dims.get(part, '')}"


@contextmanager
def counting_flops() -> Iterator[list[int]]:
    """Counts the floating-point operations of matrix products, convolutions and attention within
    the block, backward included; a multiplication and an addition are two. Yields a list that
    holds their number once the block has ended."""
    counted: list[int] = []
    with FlopCounterMode(display=False) as counter:
        yield counted
    counted.append(counter.get_total_flops())
