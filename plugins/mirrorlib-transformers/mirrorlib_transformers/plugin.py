"""What this plugin offers to mirrorlib."""

from __future__ import annotations

from mirrorlib import Component, hookimpl


@hookimpl
def mirrorlib_observers() -> list[Component]:
    return [
        Component(
            "transformers",
            build="mirrorlib_transformers.build:build",
            config="mirrorlib_transformers.config:TransformersConfig",
            summary="a video model of transformers' by hub id or folder, and a text tower",
        )
    ]
