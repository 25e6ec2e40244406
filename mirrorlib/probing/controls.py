"""The controls of the text shortcut: what is taken away, and from what.

Executor and observer may agree because both know the instruction. Each control (`names.CONTROLS`)
removes a part of what they could agree through; maps are fitted and read on what is left.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mirrorlib.evaluation.representations import Alter, Represented
from mirrorlib.interfaces import Steps
from mirrorlib.probing.names import NEUTRAL, Control
from mirrorlib.randomness import seeded


def alteration(
    control: Control, reference: Steps, cameras: Sequence[str], watched: Collection[str]
) -> Alter:
    """What the executor is fed under a control of `names.ALTERED`.

    reference: any steps of training; the first stands for what every step is given. cameras: of
    the steps, in order. watched: cameras whose pictures the observer sees.
    """
    if control == "text_only":
        return lambda steps: _blind(steps, reference)
    if control == "null_instruction":
        return lambda steps: replace(
            steps, instruction=[NEUTRAL] * len(steps), text=[NEUTRAL] * len(steps)
        )
    unshared = torch.tensor([camera not in watched for camera in cameras])
    return lambda steps: _without(steps, unshared)


def impossible(
    control: Control,
    train: Represented,
    test: Represented,
    cameras: Sequence[str] = (),
    watched: Collection[str] = (),
) -> str | None:
    """Why a control cannot be computed of this data, None where it can."""
    if control == "unshared_camera" and cameras and set(cameras) <= set(watched):
        return "the observer watches every camera that the executor sees"
    if control in ("within_instruction", "text_alone"):
        unknown = sorted(set(test.instructions) - set(train.instructions))
        if unknown:
            return f"{unknown[0]!r} is not among the training instructions"
    return None


def controlled(
    control: Control | None, train: Represented, test: Represented, seed: int
) -> tuple[Represented, Represented]:
    """Training and held-out pairs under a control; those of `names.ALTERED` hold their e already.

    seed: of what is drawn (`shuffled`).
    """
    if control == "within_instruction":
        return _centred(train, test)
    if control == "text_alone":
        known = sorted(set(train.instructions))
        return _told(train, known), _told(test, known)
    if control == "shuffled":
        with seeded("probe", "shuffled", seed):
            return replace(train, e=train.e[torch.randperm(len(train.e))]), test
    return train, test


def _blind(steps: Steps, reference: Steps) -> Steps:
    def same(x: Tensor) -> Tensor:
        return x[:1].expand(len(steps), *x.shape[1:]).contiguous()

    return replace(
        steps,
        rgb=torch.zeros_like(steps.rgb),
        depth=torch.zeros_like(steps.depth),
        intrinsics=same(reference.intrinsics),
        extrinsics=same(reference.extrinsics),
        proprioception=same(reference.proprioception),
        action=same(reference.action),
    )


def _without(steps: Steps, shown: Tensor) -> Steps:
    """Depth 0 says that nothing was measured. shown: (V,) bool."""
    return replace(
        steps,
        rgb=steps.rgb * shown[:, None, None, None].to(steps.rgb.dtype),
        depth=steps.depth * shown[:, None, None].to(steps.depth.dtype),
    )


def _centred(train: Represented, test: Represented) -> tuple[Represented, Represented]:
    """Less the training mean of the row's instruction, on either side."""
    known = sorted(set(train.instructions))
    own, held_out = (
        torch.tensor([known.index(text) for text in r.instructions]) for r in (train, test)
    )
    members = one_hot(own, len(known)).float()
    means = [members.T @ x / members.sum(0)[:, None] for x in (train.u, train.e)]
    return (
        replace(train, u=train.u - means[0][own], e=train.e - means[1][own]),
        replace(test, u=test.u - means[0][held_out], e=test.e - means[1][held_out]),
    )


def _told(rows: Represented, known: Sequence[str]) -> Represented:
    numbers = torch.tensor([known.index(text) for text in rows.instructions])
    return replace(rows, e=one_hot(numbers, len(known)).float())
