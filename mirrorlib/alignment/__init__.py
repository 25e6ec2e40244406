"""How well two representations of the same things agree: pure functions of tensors.

Each computes in float32 or wider, declares how it treats ties and knows nothing of models, data
or processes. Row i of x: (N, D) is the partner of row i of y; a common order of rows never counts.
Rotations include reflections; "each" side may be moved by itself, "both" must move as one.
`permutation_null` says what a measure gives for rows that are not partners.

| measure | range | invariant to | blind to |
|---|---|---|---|
| `recall_at_k`, `ranks`, `retrieval` | [0, 1], [1, N] | rotation of both, lengths | distances |
| `mutual_information_bound` | up to log N | rotation of both, lengths | beyond log N nats |
| `alignment` | [0, 4] | rotation of both, lengths | collapse |
| `uniformity` (of one side) | [-8, 0] | rotation, lengths | what rows mean |
| `mutual_knn`, `cknna` | [0, 1], [-1, 1] | rotation of each, lengths | beyond k neighbours |
| `cka`, `minibatch_cka` | [-1, 1] | rotation, shift, scale of each | which rotation |
| `procrustes` | [0, 1] | rotation, shift, scale of each | which rotation; its bias |
| `rsa` | [-1, 1] | Euclidean: rotation, shift, scale of each | near neighbours |
| `svcca` | [0, 1] | rotation, shift, scale of each | variance of directions kept |
| `pwcca` | [0, 1] | shift, scale of each; any linear map of y | variance in y |
| `linear_r2` | up to 1 | rotation, shift, scale of each | faint directions of y |
| `effective_rank` (of one side) | [1, min(N - 1, D)] | rotation, shift, scale | clusters |
| `scale` (of one side) | at least 0 | rotation, shift | directions |
"""

from mirrorlib.alignment.cka import cka, minibatch_cka
from mirrorlib.alignment.information import mutual_information_bound
from mirrorlib.alignment.linear_fit import linear_r2
from mirrorlib.alignment.neighbours import cknna, mutual_knn
from mirrorlib.alignment.null import Null, permutation_null
from mirrorlib.alignment.procrustes import procrustes
from mirrorlib.alignment.retrieval import (
    Direction,
    Retrieval,
    chance_recall_at_k,
    cosine_scores,
    ranks,
    recall_at_k,
    retrieval,
)
from mirrorlib.alignment.rsa import rsa
from mirrorlib.alignment.spread import alignment, effective_rank, scale, uniformity
from mirrorlib.alignment.svcca import pwcca, svcca

__all__ = [
    "Direction",
    "Null",
    "Retrieval",
    "alignment",
    "chance_recall_at_k",
    "cka",
    "cknna",
    "cosine_scores",
    "effective_rank",
    "linear_r2",
    "minibatch_cka",
    "mutual_information_bound",
    "mutual_knn",
    "permutation_null",
    "procrustes",
    "pwcca",
    "ranks",
    "recall_at_k",
    "retrieval",
    "rsa",
    "scale",
    "svcca",
    "uniformity",
]
