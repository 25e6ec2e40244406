import numpy as np
import standin_control as control


class MoveArmThenGripper:
    def __init__(self, arm_action_mode, gripper_action_mode):
        self.arm_action_mode, self.gripper_action_mode = arm_action_mode, gripper_action_mode

    def action(self, scene, action):
        if control.PERACT:
            assert len(action) == 9
            self.arm_action_mode.action(scene, np.array(action[:7]), bool(action[8]))
            self.gripper_action_mode.action(scene, np.array(action[7:8]))
        else:
            self.arm_action_mode.action(scene, np.array(action[:7]))
            self.gripper_action_mode.action(scene, np.array(action[7:]))

    def action_shape(self, scene):
        return 8
