"""The room around a task: table, light and cameras, as MJCF."""

from __future__ import annotations

import numpy as np

from mirrorlib_tabletop import robot

# Who touches whom: robot 1 | blocks 2. `contype` says what a thing is, `conaffinity` what it meets.
FIXTURE = "contype='0' conaffinity='1'"
"""Meets only the robot: buttons, drawers, taps."""
BLOCK = "contype='2' conaffinity='3'"
"""Meets the robot and other blocks."""
GROUND = "contype='0' conaffinity='3'"
"""Meets the robot and blocks."""
PAINT = "contype='0' conaffinity='0'"
"""Meets nothing."""


def look_at(eye: tuple[float, ...], target: tuple[float, ...]) -> str:
    """MJCF attributes of a camera at `eye` that looks at `target`, upright."""
    forward = np.subtract(target, eye)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    up = np.cross(right, forward / np.linalg.norm(forward))
    numbers = " ".join(f"{x:.6f}" for x in (*right, *up))
    return f"pos='{eye[0]} {eye[1]} {eye[2]}' xyaxes='{numbers}'"


def scene_xml(assets: str, bodies: str) -> str:
    """The MJCF of a table with a Panda and a task's `bodies`.

    A time step of 2 ms: at 4 ms grasps slip. Lengths in `visual` are metres (extent 1). No light
    moves with a camera: a point has one colour in all views. Lamps are far away instead of
    directional, which MuJoCo's versions spell differently.
    """
    return f"""<mujoco>
<compiler angle='radian' autolimits='true'/>
<option timestep='.002' integrator='implicitfast' cone='elliptic' impratio='10'/>
<statistic extent='1' center='.45 0 .1'/>
<visual>
  <quality shadowsize='0' offsamples='0' numslices='16' numstacks='8'/>
  <headlight ambient='.45 .45 .45' diffuse='0 0 0' specular='0 0 0'/>
  <map znear='.02' zfar='8'/>
</visual>
<default>{robot.DEFAULTS}</default>
<asset>
  <texture name='sky' type='skybox' builtin='gradient' rgb1='.93 .95 .97' rgb2='.62 .67 .73'
    width='64' height='64'/>
  {assets}
</asset>
<worldbody>
  <light pos='5.45 -4.5 10' dir='-.5 .45 -1' diffuse='.42 .42 .42' specular='0 0 0'/>
  <light pos='-3.05 5.5 6' dir='.35 -.55 -.6' diffuse='.25 .25 .25' specular='0 0 0'/>
  <geom name='top' type='box' size='.65 .7 .02' pos='.45 0 -.02' rgba='.70 .61 .51 1' {PAINT}/>
  <geom name='table' type='plane' size='4 4 .1' group='3' {GROUND}/>
  <camera name='front' {look_at((1.30, 0, 0.80), (0.40, 0, 0.10))} fovy='46'/>
  <camera name='left_shoulder' {look_at((-0.05, 0.80, 0.80), (0.46, 0, 0.08))} fovy='46'/>
  <camera name='right_shoulder' {look_at((-0.05, -0.80, 0.80), (0.46, 0, 0.08))} fovy='46'/>
  {robot.body_xml()}
  {bodies}
</worldbody>
<actuator>{robot.actuator_xml()}</actuator>
</mujoco>"""
