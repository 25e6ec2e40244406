from rlbench.backend.task import Task


class OpenDrawer(Task):
    variations = 3
    words = ("go to drawer {}", "drawer number {} is it")
