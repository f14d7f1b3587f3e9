"""Tasks: the goal of an episode, chosen by name (``gym.make(id, task="collect")``). Register your own to add one."""

from glass_gym.tasks.base import TASKS, GoalTask, Outcome, Scene, Task, TaskState, make_task, register_task
from glass_gym.tasks.collect import CollectTask
from glass_gym.tasks.follow import FollowTask
from glass_gym.tasks.match import MatchTask
from glass_gym.tasks.maze import MazeTask
from glass_gym.tasks.perform import PerformTask
from glass_gym.tasks.reach import ReachTask

TASKS |= {
    "reach": ReachTask,
    "collect": CollectTask,
    "perform": PerformTask,
    "match": MatchTask,
    "follow": FollowTask,
    "maze": MazeTask,
}

__all__ = [
    "TASKS",
    "CollectTask",
    "FollowTask",
    "GoalTask",
    "MatchTask",
    "MazeTask",
    "Outcome",
    "PerformTask",
    "ReachTask",
    "Scene",
    "Task",
    "TaskState",
    "make_task",
    "register_task",
]
