"""What this plugin offers to mirrorlib."""

from __future__ import annotations

from mirrorlib import Component, hookimpl


@hookimpl
def mirrorlib_objectives() -> list[Component]:
    return [
        Component(
            "infonce",
            build="mirrorlib_objectives.infonce:build_infonce",
            config="mirrorlib_objectives.config:InfoNCEConfig",
            summary="bidirectional InfoNCE over cosine similarities, the paper's objective",
        ),
        Component(
            "none",
            build="mirrorlib_objectives.none:build_none",
            config="mirrorlib_objectives.config:NoneConfig",
            summary="no alignment: the baseline, at no cost",
        ),
    ]


@hookimpl
def mirrorlib_projectors() -> list[Component]:
    return [
        Component(
            "linear",
            build="mirrorlib_objectives.linear:build_linear",
            config="mirrorlib_objectives.config:LinearConfig",
            summary="one linear layer, the paper's projector",
        )
    ]
