import importlib


def task_file_to_task_class(task_file):
    name = task_file.replace(".py", "")
    module = importlib.reload(importlib.import_module(f"rlbench.tasks.{name}"))
    return getattr(module, "".join(word.capitalize() for word in name.split("_")))
