"""What this distribution offers to mirrorlib."""

from collections.abc import Sequence

from mirrorlib.hookspecs import Component, hookimpl


@hookimpl
def mirrorlib_executors() -> Sequence[Component]:
    return [
        Component(
            "arp",
            build="mirrorlib_arp.policy:build",
            config="mirrorlib_arp.config:ArpConfig",
            summary="orthographic views of a point cloud, two-stage heat-maps, actions in chunks",
        )
    ]
