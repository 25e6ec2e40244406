"""A Panda of primitive shapes: its MJCF, its inverse kinematics and its control.

Kinematics and limits are Franka's published ones; only hand and fingers collide.
"""

from __future__ import annotations

import numpy as np

from mirrorlib_tabletop.geometry import Array, to_mujoco
from mirrorlib_tabletop.graphics import mujoco

HOME: Array = np.array([0.0, -0.25, 0.0, -2.2, 0.0, 1.95, 0.785])
JOINTS = 7
FINGER_TRAVEL = 0.04
MAX_JOINT_STEP = 0.25  # radians a control tick: 5 rad/s

FEED_FORWARD = 1.54
"""A servo of gain k and damping k / 10 follows as x' = 10 (u - x): to arrive after a tick of 50 ms
it must be sent e^-.5 / (1 - e^-.5) of the tick's change beyond the goal."""

WHITE, GREY, DARK = ".93 .93 .94 1", ".62 .64 .67 1", ".16 .16 .18 1"

DEFAULTS = """
<default class='shape'><geom contype='0' conaffinity='0' group='2' mass='0'/></default>
<default class='hand'><geom contype='1' conaffinity='0' group='3' mass='0'/></default>
<default class='finger'>
  <geom contype='1' conaffinity='0' group='3' mass='0' friction='2 .05 .001' solref='.006 1'/>
</default>
"""


def _capsule(start: str, end: str, radius: float, rgba: str = WHITE) -> str:
    return (
        f"<geom class='shape' type='capsule' fromto='{start} {end}' size='{radius}' rgba='{rgba}'/>"
    )


def _mass(kilograms: float) -> str:
    return f"<inertial mass='{kilograms}' pos='0 0 0' diaginertia='.02 .02 .02'/>"


def _finger(side: int, turn: str) -> str:
    return f"""
<body name='finger{side}' pos='0 0 .0584' quat='{turn}' gravcomp='1'>{_mass(0.05)}
  <joint name='finger{side}' type='slide' axis='0 1 0' range='0 {FINGER_TRAVEL}'
    damping='5' armature='.05'/>
  <geom class='shape' type='box' size='.009 .006 .025' pos='0 .007 .025' rgba='{DARK}'/>
  <geom class='finger' type='box' size='.01 .006 .027' pos='0 .006 .027'/>
</body>"""


HAND = f"""
<body name='hand' pos='0 0 .107' quat='.9238795 0 0 -.3826834' gravcomp='1'>{_mass(0.73)}
  <geom class='shape' type='box' size='.025 .1 .03' pos='0 0 .03' rgba='{WHITE}'/>
  <geom class='shape' type='box' size='.021 .07 .006' pos='0 0 .063' rgba='{DARK}'/>
  <geom class='hand' type='box' size='.025 .1 .03' pos='0 0 .03'/>
  <camera name='wrist' pos='.09 0 0' xyaxes='0 1 0 .97 0 .25' fovy='70'/>
  <site name='tool' pos='0 0 .1034' size='.005' rgba='0 0 0 0'/>
  {_finger(1, "1 0 0 0")}{_finger(2, "0 0 0 1")}
</body>"""

# Each link: mass, pose in its parent, joint range, shapes.
LINKS = (
    (4.0, "pos='0 0 .333'", "-2.8973 2.8973",
     _capsule("0 0 -.16", "0 0 0", 0.06) + _capsule("0 -.06 0", "0 .06 0", 0.055, GREY)),
    (4.0, "quat='1 -1 0 0'", "-1.7628 1.7628", _capsule("0 0 0", "0 -.2 0", 0.058)),
    (3.0, "pos='0 -.316 0' quat='1 1 0 0'", "-2.8973 2.8973",
     _capsule("0 0 -.09", "0 0 0", 0.055) + _capsule("0 0 0", ".0825 0 0", 0.05)),
    (2.5, "pos='.0825 0 0' quat='1 1 0 0'", "-3.0718 -.0698",
     _capsule("0 0 -.055", "0 0 .055", 0.052, GREY) + _capsule("0 0 0", "-.0825 .06 0", 0.05)),
    (3.0, "pos='-.0825 .384 0' quat='1 -1 0 0'", "-2.8973 2.8973",
     _capsule("0 0 -.28", "0 .03 -.08", 0.05) + _capsule("0 .03 -.08", "0 0 0", 0.045)),
    (1.5, "quat='1 1 0 0'", "-.0175 3.7525",
     _capsule("0 0 -.05", "0 0 .05", 0.045, GREY) + _capsule("0 0 0", ".088 0 0", 0.045)),
    (0.5, "pos='.088 0 0' quat='1 1 0 0'", "-2.8973 2.8973",
     _capsule("0 0 -.03", "0 0 .08", 0.043)),
)  # fmt: skip


def body_xml() -> str:
    """The Panda, its base at the world's origin."""
    inner = HAND
    for number, (mass, pose, limits, shapes) in reversed(list(enumerate(LINKS, start=1))):
        inner = f"""<body name='link{number}' {pose} gravcomp='1'>{_mass(mass)}
<joint name='joint{number}' axis='0 0 1' range='{limits}' damping='1' armature='.1'/>
{shapes}{inner}</body>"""
    foot = f"<geom class='shape' type='cylinder' fromto='0 0 0 0 0 .06' size='.1' rgba='{DARK}'/>"
    base = _mass(2.8) + foot + _capsule("0 0 .05", "0 0 .2", 0.06)
    return f"<body name='link0'>{base}{inner}</body>"


def actuator_xml() -> str:
    """Position servos: gains, dampings and force limits that hold a pose to a millimetre."""
    gains = [(4500, 450, 87)] * 2 + [(3500, 350, 87)] * 2 + [(2000, 200, 30)] * 3
    servo = (
        "<general joint='{}' biastype='affine' gainprm='{k}' biasprm='0 -{k} -{v}' "
        "forcerange='-{f} {f}'/>"
    )
    arm = (servo.format(f"joint{i}", k=k, v=v, f=f) for i, (k, v, f) in enumerate(gains, start=1))
    fingers = (servo.format(f"finger{i}", k=2500, v=60, f=40) for i in (1, 2))
    return "".join((*arm, *fingers))


class Kinematics:
    """The arm's inverse kinematics, on a model of the arm alone."""

    def __init__(self) -> None:
        self.model = mujoco.MjModel.from_xml_string(
            f"<mujoco><compiler angle='radian' autolimits='true'/><default>{DEFAULTS}</default>"
            f"<worldbody>{body_xml()}</worldbody></mujoco>"
        )
        self.data = mujoco.MjData(self.model)
        self.tool = self.model.site("tool").id
        self.low, self.high = self.model.jnt_range[:JOINTS].T
        self.jacobian = np.zeros((6, self.model.nv))

    def solve(
        self, position: Array, quaternion: Array, start: Array, iterations: int = 12
    ) -> tuple[Array, bool]:
        """Joints (7,) that bring the tool to a pose, and whether they do to within 5 mm-rad.

        Damped least squares (Wampler 1986) from `start`; the redundant joint drifts to HOME.
        """
        wanted, joints = to_mujoco(quaternion), start.copy()
        error = np.empty(6)
        for _ in range(iterations):
            self._error(joints, position, wanted, error)
            if error @ error < 1e-8:
                return joints, True
            mujoco.mj_jacSite(
                self.model, self.data, self.jacobian[:3], self.jacobian[3:], self.tool
            )
            jacobian = self.jacobian[:, :JOINTS]
            homing = 0.05 * (HOME - joints)
            damped = jacobian @ jacobian.T
            damped.flat[::7] += 1e-4
            change = homing + jacobian.T @ np.linalg.solve(damped, error - jacobian @ homing)
            joints = np.clip(joints + np.clip(change, -0.2, 0.2), self.low, self.high)
        self._error(joints, position, wanted, error)
        return joints, bool(error @ error < 2.5e-5)

    def _error(self, joints: Array, position: Array, wanted: Array, out: Array) -> None:
        """Writes the twist from the tool's pose at `joints` to the wanted one into out (6,)."""
        model, data = self.model, self.data
        data.qpos[:JOINTS] = joints
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        out[:3] = position - data.site_xpos[self.tool]
        turn, inverse = np.empty(4), np.empty(4)
        mujoco.mju_mat2Quat(turn, data.site_xmat[self.tool])
        mujoco.mju_negQuat(inverse, turn)
        mujoco.mju_mulQuat(turn, wanted, inverse)
        mujoco.mju_quat2Vel(out[3:], turn, 1.0)
