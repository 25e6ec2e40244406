"""What this plugin offers to mirrorlib."""

from __future__ import annotations

from mirrorlib import Check, Component, hookimpl


@hookimpl
def mirrorlib_observers() -> list[Component]:
    return [
        Component(
            "viclip",
            build="mirrorlib_viclip.build:build_viclip",
            config="mirrorlib_viclip.config:ObserverConfig",
            summary="ViCLIP, of any size, from chance or from published weights",
        )
    ]


@hookimpl
def mirrorlib_checks() -> list[Check]:
    return [
        Check(
            "ViCLIP's tokenizer loads",
            run="mirrorlib.tokenizer:check",
            needed_by=(),
            slow=True,
        )
    ]
