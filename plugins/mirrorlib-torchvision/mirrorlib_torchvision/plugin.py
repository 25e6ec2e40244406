"""What this plugin offers to mirrorlib."""

from __future__ import annotations

from mirrorlib import Check, Component, hookimpl

PUBLISHED = tuple(f"observer {name}" for name in ("r3d_18", "mvit_v2_s", "s3d", "swin3d_t"))
"""torchvision's own networks."""


@hookimpl
def mirrorlib_observers() -> list[Component]:
    return [
        Component(
            "r3d",
            build="mirrorlib_torchvision.build:build_r3d",
            config="mirrorlib_torchvision.config:R3DConfig",
            summary="small 3-D residual network and a text tower; learns on CPU",
        ),
        Component(
            "r3d_18",
            build="mirrorlib_torchvision.build:build_r3d_18",
            config="mirrorlib_torchvision.config:R3D18Config",
            summary="torchvision's r3d_18, pretrained if asked, and a text tower",
        ),
        Component(
            "mvit_v2_s",
            build="mirrorlib_torchvision.build:build_mvit_v2_s",
            config="mirrorlib_torchvision.config:MViTV2SConfig",
            summary="torchvision's mvit_v2_s, pretrained if asked, and a text tower",
        ),
        Component(
            "s3d",
            build="mirrorlib_torchvision.build:build_s3d",
            config="mirrorlib_torchvision.config:S3DConfig",
            summary="torchvision's s3d, pretrained if asked, and a text tower",
        ),
        Component(
            "swin3d_t",
            build="mirrorlib_torchvision.build:build_swin3d_t",
            config="mirrorlib_torchvision.config:Swin3DTConfig",
            summary="torchvision's swin3d_t, pretrained if asked, and a text tower",
        ),
    ]


@hookimpl
def mirrorlib_checks() -> list[Check]:
    where = "mirrorlib_torchvision.installation"
    return [
        Check("torchvision matches torch", run=f"{where}:check_versions", needed_by=PUBLISHED),
        Check("torchvision imports", run=f"{where}:check_import", needed_by=PUBLISHED, slow=True),
    ]
