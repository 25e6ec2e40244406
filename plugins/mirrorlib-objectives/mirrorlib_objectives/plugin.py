"""What this plugin offers to mirrorlib."""

from __future__ import annotations

from mirrorlib import Component, hookimpl


@hookimpl
def mirrorlib_objectives() -> list[Component]:
    return [
        _component(
            "infonce",
            "InfoNCEConfig",
            "bidirectional InfoNCE over cosine similarities, the paper's objective",
        ),
        _component(
            "hierarchical",
            "HierarchicalConfig",
            "InfoNCE whose positives share episode, instruction and task at once, weighted",
        ),
        _component(
            "siglip",
            "SigLIPConfig",
            "every pair judged by itself: a sigmoid in place of the softmax",
        ),
        _component(
            "dcl",
            "DCLConfig",
            "InfoNCE without the positive in its denominator; needs no large batch",
        ),
        _component(
            "debiased", "DebiasedConfig", "InfoNCE less what unknown positives add to the negatives"
        ),
        _component("cosine", "CosineConfig", "one minus the cosine of matching rows (REPA)"),
        _component("mse", "MSEConfig", "mean squared error between matching rows"),
        _component(
            "vicreg", "VICRegConfig", "matching rows alike, every dimension spread, none redundant"
        ),
        _component(
            "barlow",
            "BarlowConfig",
            "cross-correlation of the two sides' dimensions made the identity",
        ),
        _component(
            "cka",
            "CKAConfig",
            "one minus the CKA, linear or Gaussian, debiased; needs batches of 32",
        ),
        _component(
            "distill", "DistillConfig", "one side's similarities between rows teach the other's"
        ),
        _component("none", "NoneConfig", "no alignment: the baseline, at no cost"),
    ]


@hookimpl
def mirrorlib_projectors() -> list[Component]:
    return [
        _component("linear", "LinearConfig", "one linear layer, the paper's projector"),
        _component("mlp", "MLPConfig", "three linear layers with SiLU between, REPA's projector"),
        _component(
            "identity",
            "IdentityConfig",
            "nothing: representations of one width are compared as they are",
        ),
    ]


def _component(name: str, config: str, summary: str) -> Component:
    package = "mirrorlib_objectives"
    return Component(name, f"{package}.{name}:build_{name}", f"{package}.config:{config}", summary)
