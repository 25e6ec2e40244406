import numpy as np
import standin_control as control

from rlbench.backend.exceptions import InvalidActionError


def _move(scene, action, *told):
    if np.shape(action) != (7,):
        raise InvalidActionError("Expected the action shape to be: (7,)")
    if not np.isclose(np.linalg.norm(action[3:]), 1.0):
        raise InvalidActionError("Action contained non unit quaternion!")
    if not 0.7 < action[2] < 1.8:
        raise InvalidActionError("A path could not be found because the target is\noutside.")
    control.sent.append((np.array(action), *told))
    scene.move(np.array(action))


class EndEffectorPoseViaPlanning:
    def __init__(self, absolute_mode=True, frame="world", collision_checking=False):
        assert absolute_mode and frame == "world" and not collision_checking

    if control.PERACT:

        def action(self, scene, action, ignore_collisions=True):
            _move(scene, action, ignore_collisions)
    else:

        def action(self, scene, action):
            _move(scene, action)

    def action_shape(self, scene):
        return (7,)


class JointVelocity:
    def action(self, scene, action):
        raise AssertionError("demonstrations move the arm by themselves")

    def action_shape(self, scene):
        return (7,)
