"""Forward and backward of contrastive objectives against their peers' and plain torch.

    pip install 'mirrorlib[benchmark]'
    python benchmarks/objectives.py [--batches 256 1024 4096 8192] [--json FILE]

Everyone starts from the same rows before normalisation, D = 1024, one process a sample, turns
within a round (`measure.py`). InfoNCE and SigLIP as the papers have them; NT-Xent (SimCLR), which
pytorch-metric-learning and lightly compute, contrasts 2B rows with one another: about twice the
work, and another loss. `error`: of the gradient, relative, against the same formula in float64.
`of ceiling`: the time that 6 B^2 D flops, the least for one matrix of logits and its two gradients,
take at the best matmul rate of the same round, over the time taken. `cached` and `tiled` force
what ours chooses by itself; `oneDNN` is ours with MIRRORLIB_FAST_MATMUL=1.

On a GPU, in float32 and bfloat16 (the inputs; each implementation widens them or not as it does),
by default up to B = 65,536. A peer that is not installed or needs more than --memory-limit is left
out with a line.
"""

from __future__ import annotations

import functools
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import measure
import torch
from measure import CEILING, Group, Job, Sample
from torch import Tensor
from torch.nn import functional

D = 1024
TEMPERATURE = 0.1
BIAS = -10.0
BLOCK = 1024
"""Rows of the float64 reference computed at once."""
CLIP, SIGLIP = "open_clip ClipLoss", "open_clip SigLipLoss"
PLAIN, PLAIN_SIGLIP = "plain torch", "plain torch SigLIP"

Objective = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Implementation:
    """formula: a key of GRADIENTS. build: imports what it needs and returns the objective."""

    name: str
    formula: str
    build: Callable[[], Objective]


def ours(loss: str, cache_bytes: int | None, fast: bool) -> Objective:
    """Our `loss`, told how many bytes of logits to keep and whether to use the scoped backend."""
    os.environ["MIRRORLIB_FAST_MATMUL"] = str(int(fast))
    from mirrorlib_objectives import tiles

    if cache_bytes is not None:
        tiles.CACHE_BYTES = cache_bytes
    if loss == "siglip":
        from mirrorlib_objectives.siglip import SigLIP

        siglip = SigLIP(TEMPERATURE, learnable_temperature=False, bias=BIAS).to(measure.device())
        return lambda u, e: siglip(u, e).value
    from mirrorlib_objectives.infonce import InfoNCE

    infonce = InfoNCE(TEMPERATURE, learnable_temperature=False, positives="diagonal").to(
        measure.device()
    )
    return lambda u, e: infonce(u, e).value


def plain_infonce() -> Objective:
    def loss(u: Tensor, e: Tensor) -> Tensor:
        logits = functional.normalize(u) @ functional.normalize(e).T / TEMPERATURE
        partner = torch.arange(len(u), device=u.device)
        both = (
            functional.cross_entropy(logits, partner),
            functional.cross_entropy(logits.T, partner),
        )
        return (both[0] + both[1]) / 2

    return loss


def plain_siglip() -> Objective:
    bias = torch.tensor(BIAS, device=measure.device(), requires_grad=True)

    def loss(u: Tensor, e: Tensor) -> Tensor:
        logits = functional.normalize(u) @ functional.normalize(e).T / TEMPERATURE + bias
        signs = 2 * torch.eye(len(u), device=u.device, dtype=u.dtype) - 1
        return -functional.logsigmoid(signs * logits).sum() / len(u)

    return loss


def clip() -> Objective:
    from open_clip.loss import ClipLoss

    loss = ClipLoss()
    return lambda u, e: loss(functional.normalize(u), functional.normalize(e), 1 / TEMPERATURE)


def clip_siglip() -> Objective:
    from open_clip.loss import SigLipLoss

    loss, scale = SigLipLoss(), 1 / TEMPERATURE
    bias = torch.tensor(BIAS, device=measure.device(), requires_grad=True)
    return lambda u, e: loss(functional.normalize(u), functional.normalize(e), scale, bias)


def metric_learning(name: str) -> Objective:
    from pytorch_metric_learning import losses

    loss = getattr(losses, name)(temperature=TEMPERATURE)

    def both_sides(u: Tensor, e: Tensor) -> Tensor:
        labels = torch.arange(len(u), device=u.device).repeat(2)
        value: Tensor = loss(torch.cat([u, e]), labels)
        return value

    return both_sides


def lightly() -> Objective:
    from lightly.loss import NTXentLoss

    loss: Objective = NTXentLoss(temperature=TEMPERATURE)
    return loss


def implementations() -> Iterator[Implementation]:
    for loss, formula in (("InfoNCE", "infonce"), ("SigLIP", "siglip")):
        for mode, cache_bytes in (("", None), (", tiled", 0), (", cached", 2**62)):
            for backend, fast in (("", False), (", oneDNN", True)):
                build = functools.partial(ours, formula, cache_bytes, fast)
                yield Implementation(f"ours {loss}{mode}{backend}", formula, build)
    yield Implementation(PLAIN, "infonce", plain_infonce)
    yield Implementation(CLIP, "infonce", clip)
    yield Implementation(PLAIN_SIGLIP, "siglip", plain_siglip)
    yield Implementation(SIGLIP, "siglip", clip_siglip)
    yield Implementation("lightly NTXentLoss", "ntxent", lightly)
    for name in ("NTXentLoss", "SupConLoss"):
        build = functools.partial(metric_learning, name)
        yield Implementation(f"pytorch-metric-learning {name}", "ntxent", build)


IMPLEMENTATIONS = {each.name: each for each in implementations()}
COMPARED = (
    ("InfoNCE", ("infonce", "ntxent"), {"open_clip": CLIP, "plain": PLAIN}),
    ("SigLIP", ("siglip",), {"open_clip": SIGLIP, "plain": PLAIN_SIGLIP}),
)


def infonce_gradient(u: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    """Of InfoNCE to unit rows u, e: (B, D), as the two following: never more than BLOCK x 2B."""
    scale = 1 / TEMPERATURE
    of_columns = torch.stack([(scale * rows @ e.T).logsumexp(0) for rows in u.split(BLOCK)])
    to_u, to_e = -2 * e, -2 * u
    for start in range(0, len(u), BLOCK):
        rows = slice(start, start + BLOCK)
        logits = scale * u[rows] @ e.T
        share = logits.softmax(1) + (logits - of_columns.logsumexp(0)).exp()
        to_u[rows] += share @ e
        to_e += share.T @ u[rows]
    return scale / (2 * len(u)) * to_u, scale / (2 * len(u)) * to_e


def ntxent_gradient(u: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    scale = 1 / TEMPERATURE
    both = torch.cat([u, e])
    to_both = -2 * torch.cat([e, u])
    for start in range(0, len(both), BLOCK):
        rows = slice(start, start + BLOCK)
        logits = scale * both[rows] @ both.T
        logits[:, rows].fill_diagonal_(-torch.inf)
        share = logits.softmax(1)
        to_both[rows] += share @ both
        to_both += share.T @ both[rows]
    to_u, to_e = (scale / (2 * len(u)) * to_both).chunk(2)
    return to_u, to_e


def siglip_gradient(u: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    scale = 1 / TEMPERATURE
    to_u, to_e = -e, -u
    for start in range(0, len(u), BLOCK):
        rows = slice(start, start + BLOCK)
        share = (scale * u[rows] @ e.T + BIAS).sigmoid()
        to_u[rows] += share @ e
        to_e += share.T @ u[rows]
    return scale / len(u) * to_u, scale / len(u) * to_e


GRADIENTS = {"infonce": infonce_gradient, "ntxent": ntxent_gradient, "siglip": siglip_gradient}


def inputs(job: Job) -> tuple[Tensor, Tensor]:
    """u, e: (B, D), partners at a cosine of about 0.45, requiring gradients."""
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(job["batch"], D, generator=generator)
    e = u + 2 * torch.randn(job["batch"], D, generator=generator)
    dtype = getattr(torch, job["dtype"])
    return tuple(x.to(measure.device(), dtype).requires_grad_() for x in (u, e))  # type: ignore[return-value]


def exact_gradients(job: Job) -> dict[str, list[Tensor]]:
    """Gradients of each formula to u and e in float64, computed once a size."""
    path = Path(job["reference"])
    if path.exists():
        stored: dict[str, list[Tensor]] = torch.load(path)
        return stored
    gradients = {}
    for formula, gradient in GRADIENTS.items():
        sides = [x.detach().double().requires_grad_() for x in inputs(job)]
        units = [functional.normalize(x) for x in sides]
        with torch.no_grad():
            to_units = gradient(*units)
        torch.autograd.backward(units, to_units)
        gradients[formula] = [x.grad.cpu() for x in sides if x.grad is not None]
    torch.save(gradients, path)
    return gradients


def work(job: Job, memory_limit: float | None) -> Sample:
    """What a child does."""
    if job["name"] == CEILING:
        return measure.ceiling(getattr(torch, job["dtype"]))
    implementation = IMPLEMENTATIONS[job["name"]]
    objective = implementation.build()
    u, e = inputs(job)
    found = measure.sample(lambda: objective(u, e).backward(), (u, e), memory_limit)
    if job["round"] == 0:
        assert u.grad is not None and e.grad is not None
        exact = exact_gradients(job)[implementation.formula]
        found["error"] = measure.relative_error((u.grad, e.grad), exact)
    return found


def groups(batches: list[int], dtypes: list[str], folder: str) -> Iterator[Group]:
    for dtype, batch in itertools.product(dtypes, batches):
        job = {"batch": batch, "dtype": dtype, "reference": f"{folder}/{dtype}-{batch}"}
        for title, formulas, peers in COMPARED:
            names = [each.name for each in IMPLEMENTATIONS.values() if each.formula in formulas]
            heading = f"{title}, B = {batch}, D = {D}, {dtype}"
            jobs = [{**job, "name": name} for name in names]
            yield Group(heading, jobs, 6 * batch**2 * D, peers)


def main() -> None:
    gpu = measure.device().type == "cuda"
    parser = measure.parser(__doc__)
    batches = [1024, 4096, 16384, 65536] if gpu else [256, 1024, 4096, 8192]
    parser.add_argument("--batches", type=int, nargs="+", default=batches)
    options = parser.parse_args()
    if options.child:
        measure.answer(lambda: work(options.child, options.memory_limit))
        return
    dtypes = ["float32", "bfloat16"] if gpu else ["float32"]
    with tempfile.TemporaryDirectory() as folder:
        measure.compare(__file__, list(groups(options.batches, dtypes, folder)), options)


if __name__ == "__main__":
    main()
