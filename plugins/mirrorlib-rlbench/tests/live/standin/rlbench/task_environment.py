import numpy as np
import standin_control as control

from rlbench.backend.exceptions import BoundaryError, TaskEnvironmentError
from rlbench.backend.scene import TABLE
from rlbench.demo import Demo


class TaskEnvironment:
    def __init__(self, scene, task, action_mode):
        self._scene, self._task, self._action_mode = scene, task, action_mode
        scene.load(task)
        self._variation_number, self._reset_called = 0, False

    def set_variation(self, v):
        if v >= self.variation_count():
            raise TaskEnvironmentError("Requested variation is too high.")
        self._variation_number = v

    def variation_count(self):
        return self._task.variation_count()

    if control.PERACT:

        def reset(self):
            return self._reset(None)

        def reset_to_demo(self, demo):
            demo.restore_state()
            return self.reset()
    else:

        def reset(self, demo=None):
            return self._reset(demo)

    def _reset(self, demo):
        assert control.running is not None and self._scene.task is self._task
        control.resets.append(demo)
        self._scene.reset()
        tried = getattr(demo, "num_reset_attempts", None)
        placing = self._variation_number, tried or 40, tried is not None
        try:
            desc = self._scene.init_episode(*placing)
        except BoundaryError as error:
            told = "Could not place the task in the scene.\nPlease report it."
            raise TaskEnvironmentError(told) from error
        self._reset_called = True
        return desc, self._scene.get_observation()

    def get_observation(self):
        return self._scene.get_observation()

    def step(self, action):
        if not self._reset_called:
            raise RuntimeError("Call 'reset' before calling 'step' on a task.")
        assert self._scene.task is self._task
        self._action_mode.action(self._scene, action)
        success = self._scene.solved()
        return self._scene.get_observation(), float(success), success

    def get_demos(
        self, amount, live_demos=False, image_paths=False, callable_each_step=None,
        max_attempts=10, random_selection=True, from_episode_number=0,
    ):  # fmt: skip
        assert live_demos and not image_paths
        return [self._demo(max_attempts) for _ in range(amount)]

    def _demo(self, attempts):
        for _ in range(attempts):
            state = np.random.get_state()
            self.reset()
            if self._scene.drawn < control.failing_demos:
                continue
            demo = Demo(self._shown(), state)
            if not control.PERACT:
                demo.num_reset_attempts = self._scene.attempts + 1
            return demo
        raise RuntimeError("Could not collect demos. Maybe a problem with the task?")

    def _shown(self):
        scene, seen = self._scene, [self._scene.get_observation()]
        place = np.array([*scene.block, TABLE + 0.01])
        for height in (0.2, 0.0):
            scene.register_step_callback(lambda: seen.append(scene.get_observation()))
            scene.move(np.array([*place[:2], place[2] + height, *scene.pose[3:]]), steps=2)
            scene.register_step_callback(None)
        scene.open = 0.0
        assert scene.solved()
        return [*seen, *(scene.get_observation() for _ in range(3))]
