"""Several processes give the gradients and logs of one, whatever the number of rows in each."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from mirrorlib.interfaces import Objective
from mirrorlib.testing import run_in_processes
from mirrorlib.training.world import make_world
from mirrorlib_objectives import plugin, tiles
from mirrorlib_objectives.linear import LinearProjector

ROWS = 37
SPLITS = {
    2: {"even": [19, 18], "uneven": [29, 8], "one without rows": [37, 0]},
    4: {"even": [10, 9, 9, 9], "uneven": [17, 1, 12, 7], "one without rows": [16, 0, 13, 8]},
}
LEARNT = {"learnable_temperature": True}
RECIPES: dict[str, dict[str, Any]] = {
    "infonce, diagonal": LEARNT | {"positives": "diagonal"},
    "infonce, multi": LEARNT | {"positives": "multi"},
    "infonce, masked": LEARNT | {"positives": "masked"},
    "infonce, cold": LEARNT | {"temperature": 0.011, "positives": "masked"},
    "hierarchical": LEARNT | {"weights": {"episode": 1, "instruction": 2, "task": 3}},
    "siglip, diagonal": {"positives": "diagonal", "bias": -1.0},
    "siglip, multi": {"positives": "multi", "bias": -1.0},
    "siglip, masked": {"positives": "masked", "bias": -1.0},
    "dcl, diagonal": LEARNT | {"positives": "diagonal"},
    "dcl, masked": LEARNT | {"positives": "masked"},
    "debiased": LEARNT | {"temperature": 0.5},
    "cosine": {},
    "mse": {},
    "vicreg": {},
    "barlow": {},
    "cka, linear": {},
    "cka, linear, biased": {"debiased": False},
    "cka, rbf": {"kernel": "rbf"},
    "cka, rbf, biased": {"kernel": "rbf", "debiased": False},
    "distill, observer": {"teacher": "observer"},
    "distill, executor": {"teacher": "executor"},
}
TEACHERS = {"distill, observer": "projectors.0", "distill, executor": "projectors.1"}
"""Projectors whose gradient is zero, and with it their encoder's."""


def load(reference: str) -> Any:
    module, name = reference.split(":")
    return getattr(import_module(module), name)


def build(recipe: str) -> Objective:
    name = recipe.split(",")[0]
    component = next(c for c in plugin.mirrorlib_objectives() if c.name == name)
    objective: Objective = load(component.build)(load(component.config)(**RECIPES[recipe]))
    return objective


class Joint(nn.Module):
    """An encoder and a projector a side, and an objective with what it learns."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(nn.Linear(6, 5) for _ in "ue")
        self.projectors = nn.ModuleList(LinearProjector(5, 4) for _ in "ue")
        self.objective = objective

    def forward(self, x: Tensor, labels: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        u, e = (
            projector(encoder(side))
            for projector, encoder, side in zip(self.projectors, self.encoders, x, strict=True)
        )
        loss = self.objective(u, e, labels, make_world(u, e, labels))
        return loss.value, dict(loss.logs)


def labels_for(objective: Objective) -> Tensor:
    """(N,) of four values, or (N, 3) of levels within each other."""
    finest = torch.randint(0, 16, (ROWS,))
    if objective.uses_levels:
        return torch.stack([finest, finest // 4, finest // 8], 1)
    return finest // 4


def gradients(split: list[int], recipe: str, labelled: bool) -> dict[str, Tensor]:
    """Gradients and logs of this process's rows."""
    torch.manual_seed(0)
    joint = Joint(build(recipe)).double()
    x = torch.randn(2, ROWS, 6, dtype=torch.float64)
    labels = labels_for(joint.objective) if labelled else None
    rank = dist.get_rank() if dist.is_initialized() else 0
    rows = slice(sum(split[:rank]), sum(split[: rank + 1]))
    value, logs = joint(x[:, rows], None if labels is None else labels[rows])
    value.backward()
    return {name: p.grad for name, p in joint.named_parameters()} | logs


def all_gradients() -> dict[str, dict[str, Tensor]]:
    """Of every case, averaged over the processes as DDP does: all of them at once.

    Four processes compute it in several tiles, of which none is kept.
    """
    if dist.get_world_size() == 4:
        tiles.TILE, tiles.CACHE_BYTES = 4, 0
    cases = {
        f"{split}; {recipe}; {labelled}": gradients(rows, recipe, labelled)
        for split, rows in SPLITS[dist.get_world_size()].items()
        for recipe in RECIPES
        for labelled in (True, False)
    }
    tensors = [tensor for case in cases.values() for tensor in case.values()]
    total = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(total)
    means = (total / dist.get_world_size()).split([tensor.numel() for tensor in tensors])
    for tensor, mean in zip(tensors, means, strict=True):
        tensor.copy_(mean.view_as(tensor))
    return cases


@cache
def from_processes(size: int) -> list[dict[str, dict[str, Tensor]]]:
    return run_in_processes(all_gradients, size)


@cache
def from_one_process(recipe: str, labelled: bool) -> dict[str, Tensor]:
    return gradients([ROWS], recipe, labelled)


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("split", SPLITS[2])
@pytest.mark.parametrize("size", SPLITS)
def test_gradients_and_logs_equal_one_process(size, split, recipe, labelled):
    alone = from_one_process(recipe, labelled)
    for found in from_processes(size):
        together = found[f"{split}; {recipe}; {labelled}"]
        assert together.keys() == alone.keys()
        for name, expected in alone.items():
            if size == 4 and name.startswith("accuracy"):
                continue  # of each process's first tile at most
            torch.testing.assert_close(
                together[name], expected, rtol=1e-10, atol=1e-13, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_compared_is_not_zero(recipe, labelled):
    taught = TEACHERS.get(recipe, "none")
    for name, gradient in from_one_process(recipe, labelled).items():
        if name.startswith((taught, taught.replace("projectors", "encoders"))):
            assert not gradient.any(), name
        elif name.endswith("weight") or name.startswith("objective."):
            assert gradient.abs().max() > 1e-3, name


def test_every_objective_is_compared():
    declared = {component.name for component in plugin.mirrorlib_objectives()}
    assert {recipe.split(",")[0] for recipe in RECIPES} == declared - {"none"}
