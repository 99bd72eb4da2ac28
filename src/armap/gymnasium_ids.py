"""Registers the environments with Gymnasium; importing this module is enough.

    import armap.gymnasium_ids
    environment = gymnasium.make("armap/Game24-v0")

Each plays its evaluation tasks, one drawn by the seed at every reset. What it needs is looked for when it is
made.
"""

from __future__ import annotations

from functools import partial

from armap.environments import environment_entry
from armap.envs.gymnasium import ToGymnasium

import gymnasium  # isort: skip - after the module that says how it is installed

IDS = {
    "armap/Game24-v0": "game24",
    "armap/WebShop-v0": "webshop",
    "armap/ScienceWorld-v0": "scienceworld",
    "armap/MiniWoB-v0": "miniwob",
    "armap/Toy-v0": "toy",
}
"""Our environments by the ids they have in Gymnasium."""


def _made(name: str) -> ToGymnasium:
    entry = environment_entry(name)
    return ToGymnasium(entry.make, entry.evaluation_tasks(entry.default_evaluation))


for _id, _name in IDS.items():
    if _id not in gymnasium.registry:
        gymnasium.register(_id, entry_point=partial(_made, _name))
