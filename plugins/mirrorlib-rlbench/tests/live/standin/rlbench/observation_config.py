import standin_control as control
from pyrep.const import RenderMode

LOW = (
    "joint_velocities", "joint_positions", "joint_forces", "gripper_open", "gripper_pose",
    "gripper_matrix", "gripper_joint_positions", "gripper_touch_forces", "wrist_camera_matrix",
    "task_low_dim_state",
)  # fmt: skip
CAMERAS = ("left_shoulder", "right_shoulder", "overhead", "wrist", "front")


class Strict:
    """Setting what RLBench does not have is a mistake that it would pass over."""

    def __setattr__(self, name, value):
        assert name in type(self).KNOWN, f"RLBench's {type(self).__name__} has no {name}"
        object.__setattr__(self, name, value)


class CameraConfig(Strict):
    KNOWN = (
        "rgb", "depth", "point_cloud", "mask", "image_size", "render_mode",
        "masks_as_one_channel", "depth_in_meters",
    )  # fmt: skip

    def __init__(self):
        self.set_all(True)
        self.image_size = (128, 128)
        self.render_mode = RenderMode.OPENGL3
        self.masks_as_one_channel = True
        self.depth_in_meters = False

    def set_all(self, value):
        self.rgb = self.depth = self.point_cloud = self.mask = value


class ObservationConfig(Strict):
    KNOWN = (
        *LOW, *(f"{camera}_camera" for camera in CAMERAS), "record_gripper_closing",
        *(("record_ignore_collisions",) if control.PERACT else ()),
    )  # fmt: skip

    def __init__(self):
        for camera in CAMERAS:
            setattr(self, f"{camera}_camera", CameraConfig())
        self.set_all_low_dim(True)
        self.gripper_matrix = self.gripper_joint_positions = False
        self.gripper_touch_forces = self.task_low_dim_state = False
        self.record_gripper_closing = False

    def set_all(self, value):
        self.set_all_high_dim(value)
        self.set_all_low_dim(value)

    def set_all_high_dim(self, value):
        for camera in CAMERAS:
            getattr(self, f"{camera}_camera").set_all(value)

    def set_all_low_dim(self, value):
        for name in LOW:
            setattr(self, name, value)
