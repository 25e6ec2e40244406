"""Draws RGB-D images of a world: colour and depth in one pass, shadows and multisampling off."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mirrorlib_tabletop.geometry import Array
from mirrorlib_tabletop.graphics import mujoco

COLLISION_GROUP = 3
TO_OPENCV = np.diag([1.0, -1.0, -1.0])
"""MuJoCo's cameras look along -z with y up, OpenCV's along z with y down."""


class Renderer:
    """Images of one model, `size` pixels square, in a graphics context that others may share."""

    def __init__(self, model: mujoco.MjModel, size: int, graphics: mujoco.GLContext) -> None:
        self.model = model
        self.size = size
        self._graphics = graphics
        graphics.make_current()
        model.vis.global_.offwidth = model.vis.global_.offheight = size
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        self._context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR.value
        self._scene = mujoco.MjvScene(model, maxgeom=200)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._scene.flags[flag] = False
        self._option = mujoco.MjvOption()
        self._option.geomgroup[COLLISION_GROUP] = False
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED.value
        self._camera.fixedcamid = 0
        self._rectangle = mujoco.MjrRect(0, 0, size, size)

    def update(self, data: mujoco.MjData) -> None:
        """Takes over the bodies' present places; the calls below draw these."""
        self._graphics.make_current()
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        mujoco.mjv_updateScene(
            self.model,
            data,
            self._option,
            None,
            self._camera,
            mujoco.mjtCatBit.mjCAT_ALL.value,
            self._scene,
        )
        self._data = data

    def draw(self, camera: str) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """(H, W, 3) colours and (H, W) depth in metres along the optical axis."""
        self._camera.fixedcamid = self.model.camera(camera).id
        mujoco.mjv_updateCamera(self.model, self._data, self._camera, self._scene)
        mujoco.mjr_render(self._rectangle, self._scene, self._context)
        rgb = np.empty((self.size, self.size, 3), np.uint8)
        inverse = np.empty((self.size, self.size), np.float32)
        mujoco.mjr_readPixels(rgb, inverse, self._rectangle, self._context)
        near, far = self.model.vis.map.znear, self.model.vis.map.zfar
        depth = near * far / (inverse[::-1] * (far - near) + near)
        return np.ascontiguousarray(rgb[::-1]), depth.astype(np.float32)

    def intrinsics(self, camera: str) -> Array:
        """(3, 3) in pixels."""
        half = self.size / 2
        focal = half / np.tan(np.deg2rad(self.model.camera(camera).fovy[0]) / 2)
        return np.array([[focal, 0.0, half], [0.0, focal, half], [0.0, 0.0, 1.0]])

    def extrinsics(self, camera: str) -> Array:
        """(4, 4) camera to world, OpenCV axes, when `update` was last called."""
        view = self._data.camera(camera)
        pose = np.eye(4)
        pose[:3, :3] = view.xmat.reshape(3, 3) @ TO_OPENCV
        pose[:3, 3] = view.xpos
        return pose

    def close(self) -> None:
        """Frees the graphics memory; the renderer is not used again."""
        self._graphics.make_current()
        self._context.free()
