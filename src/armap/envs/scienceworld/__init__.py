"""ScienceWorld: the real simulator, spoken to directly, with the authors' splits."""

from armap.envs.scienceworld.environment import ScienceWorld
from armap.envs.scienceworld.simulator import check
from armap.envs.scienceworld.splits import (
    SPLITS,
    evaluation_tasks,
    families,
    parse_task,
    shared_ids,
    tasks,
    training_tasks,
)

__all__ = [
    "SPLITS",
    "ScienceWorld",
    "check",
    "evaluation_tasks",
    "families",
    "parse_task",
    "shared_ids",
    "tasks",
    "training_tasks",
]
