"""Checkable tasks: families generated from a seed, and published files.

Read `base.py` first (a task, an example, a generated family), then one family, such as `orders.py`, and `loading.py`
(tasks by name; the layouts of published files are in `formats.py`). `execution.py` runs programs written by a model,
and `confined` is what happens in the processes that it starts.
"""

from .base import SPLITS, Task, TaskExample, TaskFamily, split_of
from .execution import isolation, run_program
from .families import FAMILIES
from .loading import load_task, task_names


__all__ = [
    "FAMILIES",
    "SPLITS",
    "Task",
    "TaskExample",
    "TaskFamily",
    "isolation",
    "load_task",
    "run_program",
    "split_of",
    "task_names",
]
