"""WebShop: a shop on the web, with a catalogue of our own or with the official one."""

from armap.envs.webshop.environment import WebShop, example, opened
from armap.envs.webshop.index import Catalogue
from armap.envs.webshop.splits import SPLITS, evaluation_tasks, parse_task, tasks, training_tasks

__all__ = [
    "SPLITS",
    "Catalogue",
    "WebShop",
    "evaluation_tasks",
    "example",
    "opened",
    "parse_task",
    "tasks",
    "training_tasks",
]
