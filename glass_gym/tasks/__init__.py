"""Tasks: what an episode is about, chosen by name (``gym.make(id, task="collect")``), and a table to add yours to."""

from glass_gym.tasks.base import TASKS, GoalTask, Outcome, Scene, Task, TaskState, make_task, register_task
from glass_gym.tasks.collect import CollectTask
from glass_gym.tasks.reach import ReachTask

TASKS.setdefault("reach", ReachTask.make)
TASKS.setdefault("collect", CollectTask.make)

__all__ = [
    "TASKS",
    "CollectTask",
    "GoalTask",
    "Outcome",
    "ReachTask",
    "Scene",
    "Task",
    "TaskState",
    "make_task",
    "register_task",
]
