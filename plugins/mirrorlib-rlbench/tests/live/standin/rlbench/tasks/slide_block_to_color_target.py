from rlbench.backend.task import Task


class SlideBlockToColorTarget(Task):
    variations = 4
    words = ("go to target {}", "target number {} is it")
