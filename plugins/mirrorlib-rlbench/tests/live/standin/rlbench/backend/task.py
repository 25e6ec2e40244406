from pathlib import Path

TASKS_PATH = str(Path(__file__).parents[1] / "tasks")


class Task:
    """variations: how many. words: the descriptions, with a place for the variation. shuffled:
    whether Python's `random` has a say in the scene, as in setup_chess."""

    variations = 1
    words = ("do it",)
    shuffled = False

    def __init__(self, pyrep, robot):
        self.pyrep, self.robot = pyrep, robot

    def variation_count(self):
        return self.variations

    def descriptions(self, index):
        return [text.format(index) for text in self.words]
