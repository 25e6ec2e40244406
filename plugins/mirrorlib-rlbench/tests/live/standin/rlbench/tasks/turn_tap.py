from rlbench.backend.task import Task


class TurnTap(Task):
    variations = 2
    shuffled = True
    words = ("go to tap {}", "tap number {} is it")
