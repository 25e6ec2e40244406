"""Alignment metrics against PyPI's and against what one would write in plain torch.

    pip install 'mirrorlib[benchmark]'
    python benchmarks/metrics.py [--rows 1000 10000] [--dimensions 512 1024] [--json FILE]

Debiased linear CKA, mutual k nearest neighbours and Recall@k of two representations of the same N
rows, in float32; one process a sample, turns within a round (`measure.py`). `error`: relative,
against float64, of the gradient where there is one, else of the value. `of ceiling`: the time that
the least flops known for the quantity take at the best matmul rate of the same round, over the time
taken; for CKA those are min(14 N D^2, 8 N^2 D) with the backward pass and min(6 N D^2, 4 N^2 D)
without, for neighbours 4 N^2 D, for recall 2 N^2 D. ckatorch computes in float64 and passes no
gradient. torchmetrics counts scores of 0 and below as misses, so it is given (1 + cosine) / 2.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import measure
import torch
from measure import CEILING, Group, Job, Sample
from torch import Tensor
from torch.nn import functional

K = 10
BLOCK = 1024
"""Rows of the float64 references computed at once."""

Metric = Callable[[Tensor, Tensor], Any]


def our_cka() -> Metric:
    from mirrorlib.alignment import cka

    return cka


def pytorch_cka() -> Metric:
    from cka import cka_from_features

    return lambda x, y: cka_from_features([x], [y])


def ckatorch() -> Metric:
    from ckatorch.core import cka_base

    return lambda x, y: cka_base(x, y, unbiased=True)


def gram_cka() -> Metric:
    def debiased(x: Tensor, y: Tensor) -> Tensor:
        of_x, of_y = (_without_diagonal(rows @ rows.T) for rows in (x - x.mean(0), y - y.mean(0)))
        return _hsic(of_x, of_y) / (_hsic(of_x, of_x) * _hsic(of_y, of_y)).sqrt()

    return debiased


def _without_diagonal(gram: Tensor) -> Tensor:
    return gram - gram.diagonal().diag_embed()


def _hsic(k: Tensor, m: Tensor) -> Tensor:
    """N (N - 3) HSIC_1 of Gram matrices without diagonal (Song et al. 2012, equation 5)."""
    count = len(k)
    both = k.sum() * m.sum() / ((count - 1) * (count - 2))
    return (k * m).sum() + both - 2 / (count - 2) * (k.sum(0) @ m.sum(0))


def our_neighbours() -> Metric:
    from mirrorlib.alignment import mutual_knn

    return functools.partial(mutual_knn, k=K)


def scikit_learn() -> Metric:
    """Its fastest way: Euclidean neighbours of unit rows, which are those of the cosine."""
    from sklearn.neighbors import NearestNeighbors

    def nearest(x: Tensor) -> Tensor:
        search = NearestNeighbors(n_neighbors=K, algorithm="brute")
        found = search.fit(functional.normalize(x).cpu().numpy()).kneighbors(return_distance=False)
        return torch.from_numpy(found)

    return lambda x, y: _overlap(nearest(x), nearest(y))


def plain_neighbours(sort: bool) -> Metric:
    def nearest(x: Tensor) -> Tensor:
        unit = functional.normalize(x)
        scores = (unit @ unit.T).fill_diagonal_(-torch.inf)
        return scores.argsort(1, descending=True)[:, :K] if sort else scores.topk(K, 1).indices

    return lambda x, y: _overlap(nearest(x), nearest(y))


def _overlap(of_x: Tensor, of_y: Tensor) -> Tensor:
    return (of_x[:, :, None] == of_y[:, None, :]).any(2).double().mean()


def our_recall() -> Metric:
    from mirrorlib.alignment import cosine_scores, recall_at_k

    return lambda x, y: recall_at_k(cosine_scores(x, y), k=K)


def our_retrieval() -> Metric:
    from mirrorlib.alignment import retrieval

    return lambda x, y: retrieval(x, y).x2y.recall[K]


def torchmetrics() -> Metric:
    from torchmetrics.retrieval import RetrievalRecall

    recall = RetrievalRecall(top_k=K)

    def flat(x: Tensor, y: Tensor) -> Tensor:
        scores = (1 + functional.normalize(x) @ functional.normalize(y).T) / 2
        relevant = torch.eye(len(x), dtype=torch.bool, device=x.device)
        queries = torch.arange(len(x), device=x.device)[:, None].expand_as(scores)
        value: Tensor = recall(scores.flatten(), relevant.flatten(), queries.flatten())
        recall.reset()
        return value

    return flat


def sorted_recall() -> Metric:
    def by_rank(x: Tensor, y: Tensor) -> Tensor:
        order = (functional.normalize(x) @ functional.normalize(y).T).argsort(1, descending=True)
        partner = torch.arange(len(x), device=x.device)[:, None]
        return (order[:, :K] == partner).any(1).double().mean()

    return by_rank


def exact_cka(x: Tensor, y: Tensor) -> Tensor:
    """From D x D products, where pytorch-cka and the Gram form make N x N ones."""
    x, y = x - x.mean(0), y - y.mean(0)
    count = len(x)

    def h(a: Tensor, b: Tensor) -> Tensor:
        r, s = a.square().sum(1), b.square().sum(1)
        both = r.sum() * s.sum() / ((count - 1) * (count - 2))
        return (a.T @ b).square().sum() - count / (count - 2) * (r @ s) + both

    return h(x, y) / (h(x, x) * h(y, y)).sqrt()


def exact_neighbours(x: Tensor, y: Tensor) -> Tensor:
    def nearest(rows: Tensor) -> Tensor:
        unit = functional.normalize(rows)
        blocks = (unit[i : i + BLOCK] @ unit.T for i in range(0, len(unit), BLOCK))
        found = torch.cat([block.topk(K + 1).indices for block in blocks])
        own = torch.arange(len(unit), device=unit.device)[:, None]
        return found[found != own].view(len(unit), K)

    return _overlap(nearest(x), nearest(y))


def exact_recall(x: Tensor, y: Tensor) -> Tensor:
    scores = functional.normalize(x) @ functional.normalize(y).T
    return ((scores > scores.diagonal()[:, None]).sum(1) < K).double().mean()


@dataclass(frozen=True)
class Task:
    """noise: of y, in deviations of x. flops: least of a call for N, D. peers: column -> name."""

    exact: Metric
    noise: float
    flops: Callable[[int, int], float]
    implementations: dict[str, Callable[[], Metric]]
    peers: dict[str, str]
    gradient: bool = False


CKAS = {"ours": our_cka, "Gram matrices": gram_cka, "pytorch-cka": pytorch_cka}
TASKS = {
    "CKA, forward and backward": Task(
        exact_cka,
        2.0,
        lambda n, d: min(14 * n * d**2, 8 * n**2 * d),
        CKAS,
        {"pytorch-cka": "pytorch-cka", "Gram": "Gram matrices"},
        gradient=True,
    ),
    "CKA, forward": Task(
        exact_cka,
        2.0,
        lambda n, d: min(6 * n * d**2, 4 * n**2 * d),
        CKAS | {"ckatorch": ckatorch},
        {"pytorch-cka": "pytorch-cka", "ckatorch": "ckatorch"},
    ),
    f"mutual {K} nearest neighbours": Task(
        exact_neighbours,
        0.5,
        lambda n, d: 4 * n**2 * d,
        {
            "ours": our_neighbours,
            "full sort": functools.partial(plain_neighbours, sort=True),
            "torch.topk": functools.partial(plain_neighbours, sort=False),
            "scikit-learn NearestNeighbors": scikit_learn,
        },
        {"full sort": "full sort", "scikit-learn": "scikit-learn NearestNeighbors"},
    ),
    f"Recall@{K}": Task(
        exact_recall,
        8.0,
        lambda n, d: 2 * n**2 * d,
        {
            "ours": our_recall,
            "ours, retrieval: both ways, three k, ranks": our_retrieval,
            "full sort": sorted_recall,
            "torchmetrics RetrievalRecall": torchmetrics,
        },
        {"full sort": "full sort", "torchmetrics": "torchmetrics RetrievalRecall"},
    ),
}


def inputs(job: Job) -> tuple[Tensor, Tensor]:
    """x, y: (N, D); y is x and noise."""
    task, generator = TASKS[job["task"]], torch.Generator().manual_seed(0)
    x = torch.randn(job["rows"], job["width"], generator=generator)
    y = x + task.noise * torch.randn(x.shape, generator=generator)
    x, y = x.to(measure.device()), y.to(measure.device())
    return x.requires_grad_(task.gradient), y.requires_grad_(task.gradient)


def work(job: Job, memory_limit: float | None) -> Sample:
    """What a child does."""
    if job["name"] == CEILING:
        return measure.ceiling(torch.float32)
    task = TASKS[job["task"]]
    metric = task.implementations[job["name"]]()
    x, y = inputs(job)
    value = torch.zeros(())

    def call() -> None:
        nonlocal value
        value = torch.as_tensor(metric(x, y)).sum()
        if task.gradient:
            value.backward()

    found = measure.sample(call, (x, y), memory_limit)
    if job["round"] == 0:
        wide = [z.detach().double().requires_grad_(task.gradient) for z in (x, y)]
        exact = task.exact(*wide)
        found |= {"value": value.item(), "exact": exact.item()}
        found["error"] = measure.relative_error([value.detach()], [exact.detach()])
        if task.gradient:
            assert x.grad is not None and y.grad is not None
            exact_gradients = torch.autograd.grad(exact, wide)
            found["error"] = measure.relative_error([x.grad, y.grad], exact_gradients)
    return found


def groups(rows: list[int], dimensions: list[int], queries: int) -> Iterator[Group]:
    for name, task in TASKS.items():
        for count in [queries] if name.startswith("Recall") else rows:
            for width in dimensions if name.startswith("CKA") else dimensions[-1:]:
                job = {"task": name, "rows": count, "width": width}
                jobs = [{**job, "name": each} for each in task.implementations]
                heading = f"{name}, N = {count}, D = {width}"
                yield Group(heading, jobs, task.flops(count, width), task.peers)


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--queries", type=int, default=2000, help="rows for Recall@k")
    options = parser.parse_args()
    if options.child:
        measure.answer(lambda: work(options.child, options.memory_limit))
        return
    chosen = groups(options.rows, options.dimensions, options.queries)
    measure.compare(__file__, list(chosen), options)


if __name__ == "__main__":
    main()
