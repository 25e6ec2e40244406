"""Classes of videos by the sentences that name them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mirrorlib.errors import UserError

TEMPLATES = (
    "a video of {}.",
    "a clip of {}.",
    "a photo of {}.",
    "a recording of {}.",
    "a short video that shows {}.",
    "an example of {}.",
    "a demonstration of {}.",
    "footage of {}.",
    "a video of someone {}.",
    "a video of a person {}.",
    "a clip of someone {}.",
    "a photo of a person {}.",
    "someone is {}.",
    "a person is {}.",
    "this is a video of {}.",
    "this is how {} looks.",
)
"""Sixteen, as many as ViCLIP's evaluation has; the wording is ours."""


def mean_similarities(
    video: Tensor,
    encode_text: Callable[[list[str]], Tensor],
    labels: Sequence[str],
    templates: Sequence[str] = TEMPLATES,
) -> Tensor:
    """video: (B, P). labels: K names. Returns (B, K): the cosine with each sentence, averaged over
    the templates. (The mean of embeddings, CLIP's way, weighs the templates otherwise.) Raises
    UserError where a template has no place for the label."""
    for template in templates:
        if "{}" not in template:
            raise UserError(f"template {template!r}: write {{}} where the label belongs")
    if not templates or not labels:
        raise UserError("zero-shot classification needs at least one label and one template")
    unit = F.normalize(video, dim=1)
    sentences = [[template.replace("{}", label) for label in labels] for template in templates]
    scores = [unit @ F.normalize(encode_text(each), dim=1).T for each in sentences]
    return torch.stack(scores).mean(0)
