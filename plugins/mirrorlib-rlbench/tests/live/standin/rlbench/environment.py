import standin_control as control

from rlbench.backend.scene import Scene
from rlbench.observation_config import ObservationConfig
from rlbench.task_environment import TaskEnvironment


class Environment:
    def __init__(
        self, action_mode, dataset_root="", obs_config=None, headless=False,
        static_positions=False, robot_setup="panda", **others,
    ):  # fmt: skip
        known = {"shaped_rewards", "arm_max_velocity", "arm_max_acceleration"}
        assert not set(others) - (set() if control.PERACT else known)
        assert headless, "there is no screen"
        self.action_mode, self.config = action_mode, obs_config or ObservationConfig()
        self.scene = None

    def launch(self):
        if control.running is not None:
            raise RuntimeError("CoppeliaSim runs already in this process")
        control.running = self
        control.launches.append(self.config)
        self.scene = Scene(self.config)

    def get_task(self, task_class):
        assert control.running is self, "launch comes first"
        return TaskEnvironment(self.scene, task_class(None, None), self.action_mode)

    def shutdown(self):
        assert control.running is self
        control.running = None
