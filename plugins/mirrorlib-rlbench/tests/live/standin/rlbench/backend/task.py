from pathlib import Path

TASKS_PATH = str(Path(__file__).parents[1] / "tasks")


class Task:
    """variations: how many. words: the descriptions, with a place for the variation."""

    variations = 1
    words = ("do it",)

    def __init__(self, pyrep, robot):
        self.pyrep, self.robot = pyrep, robot

    def variation_count(self):
        return self.variations

    def descriptions(self, index):
        return [text.format(index) for text in self.words]
