"""A task's compiled model and its state: laid out, moved by control ticks, measured."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mirrorlib_tabletop import robot
from mirrorlib_tabletop.colours import PALETTE
from mirrorlib_tabletop.geometry import (
    Array,
    about_z,
    angle_between,
    canonical,
    from_mujoco,
    slerp,
    to_mujoco,
)
from mirrorlib_tabletop.graphics import mujoco

HERTZ = 20
"""Control ticks a second."""
SPEED, TURN = 0.55, 2.5
"""Mean speed of the tool along a motion: metres and radians a second."""
SETTLE_TICKS, GRIP_TICKS = 2, 6
SLEEP = int(getattr(mujoco.mjtEnableBit, "mjENBL_SLEEP", 0))
"""The flag that lets things at rest cost nothing, where this MuJoCo has it: ticks of
stack_blocks then take a sixth of the time."""
LOW: Array = np.array([-0.1, -0.8, 0.0])
HIGH: Array = np.array([1.0, 0.8, 1.0])
"""Where the tool may be sent, in metres."""


class World:
    """One compiled MJCF with a Panda in it. `tick` moves everything by 1 / HERTZ seconds."""

    def __init__(self, xml: str) -> None:
        self.model = mujoco.MjModel.from_xml_string(xml)
        self.data = mujoco.MjData(self.model)
        self.kinematics = robot.Kinematics()
        self._tool = self.model.site("tool").id
        self._substeps = round(1 / HERTZ / self.model.opt.timestep)
        self._command = self._before = robot.HOME
        self._open = 1.0

    def clear(self) -> None:
        """Back to the model's first state, the arm at HOME with an open gripper.

        Nothing sleeps before `settle`: MuJoCo would not notice that fixed bodies are moved.
        """
        self.model.opt.enableflags &= ~SLEEP
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[: robot.JOINTS] = robot.HOME
        self.data.qpos[robot.JOINTS : robot.JOINTS + 2] = robot.FINGER_TRAVEL
        self._command = self._before = robot.HOME
        self._open = 1.0

    def settle(self, seconds: float = 0.2) -> None:
        """Lets what was laid out come to rest."""
        for _ in range(round(seconds * HERTZ)):
            self.tick()
        self.model.opt.enableflags |= SLEEP
        mujoco.mj_forward(self.model, self.data)

    def tick(self) -> None:
        """One control tick towards the commanded joints and gripper."""
        change = self._command - self._before
        self.data.ctrl[: robot.JOINTS] = self._command + robot.FEED_FORWARD * change
        self._before = self._command
        self.data.ctrl[robot.JOINTS :] = robot.FINGER_TRAVEL * self._open
        mujoco.mj_step(self.model, self.data, nstep=self._substeps)

    # ------------------------------------------------------------------------------- laying out

    def place(self, body: str, position: Array, yaw: float = 0.0) -> None:
        """Sets a body, fixed or free, at (x, y) or (x, y, z), turned by `yaw`."""
        view = self.model.body(body)
        z = self.model.body_pos[view.id][2] if len(position) == 2 else position[2]
        pose = (*position[:2], z, *to_mujoco(about_z(yaw)))
        if view.jntnum[0]:
            start = self.model.jnt_qposadr[view.jntadr[0]]
            self.data.qpos[start : start + 7] = pose
        else:
            self.model.body_pos[view.id] = pose[:3]
            self.model.body_quat[view.id] = pose[3:]

    def paint(self, geom: str, colour: str) -> None:
        """Gives a geom a colour of the palette."""
        self.model.geom(geom).rgba[:3] = PALETTE[colour]

    # -------------------------------------------------------------------------------- measuring

    def joint(self, name: str) -> float:
        """Position of a hinge or slide joint: radians or metres."""
        return float(self.data.joint(name).qpos[0])

    def position(self, body: str) -> Array:
        """(3,) where a body's origin is."""
        return np.array(self.data.body(body).xpos)

    @property
    def pose(self) -> Array:
        """(7,) of the tool, measured: xyz, quaternion xyzw of canonical sign."""
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, self.data.site_xmat[self._tool])
        return np.concatenate([self.data.site_xpos[self._tool], canonical(from_mujoco(quaternion))])

    @property
    def opening(self) -> float:
        """The gripper's measured opening: 0 closed, 1 open."""
        fingers = self.data.qpos[robot.JOINTS : robot.JOINTS + 2]
        return float(np.clip(fingers.mean() / robot.FINGER_TRAVEL, 0.0, 1.0))

    @property
    def diverged(self) -> bool:
        """Whether the physics blew up and MuJoCo started afresh."""
        kinds = mujoco.mjtWarning
        bad = (kinds.mjWARN_BADQPOS, kinds.mjWARN_BADQVEL, kinds.mjWARN_BADQACC)
        return any(self.data.warning[int(kind)].number for kind in bad)

    # ----------------------------------------------------------------------------------- moving

    def execute(
        self, action: Array, before: Callable[[], None], after: Callable[[], None]
    ) -> str | None:
        """Moves the tool along a straight line to `action` (9,), then sets the gripper.

        `before` and `after` are called around every control tick. Returns why the pose was not
        reached, or None; the motion is made as far as possible.
        """
        start = self.pose
        goal, gripper = np.clip(action[:3], LOW, HIGH), float(action[7] > 0.5)
        length = float(np.linalg.norm(goal - start[:3]))
        seconds = max(length / SPEED, angle_between(start[3:], action[3:7]) / TURN)
        ticks = max(2, int(np.ceil(seconds * HERTZ)))
        reached = True
        for i in range(1, ticks + SETTLE_TICKS + 1):
            before()
            if i <= ticks:
                t = (i / ticks) ** 2 * (3 - 2 * i / ticks)
                reached = self._aim(
                    start[:3] + t * (goal - start[:3]), slerp(start[3:], action[3:7], t)
                )
            self.tick()
            after()
        if gripper != self._open:
            self._open = gripper
            for _ in range(GRIP_TICKS):
                before()
                self.tick()
                after()
        if (goal != action[:3]).any():
            return f"the position is outside the robot's bounds {LOW.tolist()} to {HIGH.tolist()}"
        return None if reached else "the robot cannot reach the pose"

    def _aim(self, position: Array, quaternion: Array) -> bool:
        joints, reached = self.kinematics.solve(position, quaternion, self._command)
        step = np.clip(joints - self._command, -robot.MAX_JOINT_STEP, robot.MAX_JOINT_STEP)
        self._command = self._command + step
        return reached
