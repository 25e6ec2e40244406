"""Mutual information between two representations, bounded from below."""

from __future__ import annotations

import math

from torch import Tensor

from mirrorlib.alignment.retrieval import cosine_scores


def mutual_information_bound(x: Tensor, y: Tensor, temperature: float = 0.1) -> Tensor:
    """log N minus the bidirectional InfoNCE of matching rows, in nats.

    x, y: (N, D), row i of one the partner of row i of the other, and all N pairs drawn
    independently: no two of one instruction. Returns (), float32 or wider. In expectation a lower
    bound on I(x; y), and at most log N, so that values compare only at equal N
    (van den Oord et al., arXiv 1807.03748, section 2.3).
    """
    if x.ndim != 2 or x.shape != y.shape or not len(x):
        raise ValueError(
            f"x and y must have one shape (N, D), not {tuple(x.shape)} and {tuple(y.shape)}"
        )
    logits = cosine_scores(x, y) / temperature
    normalisers = (logits.logsumexp(0) + logits.logsumexp(1)) / 2
    return math.log(len(x)) - (normalisers - logits.diagonal()).mean()
