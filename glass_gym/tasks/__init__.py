"""Tasks: the goal of an episode, chosen by name (``gym.make(id, task="collect")``). Register your own to add one."""

from glass_gym.tasks.base import TASKS, GoalTask, Outcome, Scene, Task, TaskState, make_task, register_task
from glass_gym.tasks.collect import CollectTask
from glass_gym.tasks.reach import ReachTask

TASKS.setdefault("reach", ReachTask)
TASKS.setdefault("collect", CollectTask)

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
