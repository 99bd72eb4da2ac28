"""A sound little environment, and one for each way to get something wrong."""

import copy
import os
import random
import sys
import time
from typing import ClassVar

from armap.errors import EnvError
from armap.protocols import StepResult
from armap.types import Observation, Task

TASKS = [
    Task(id=f"up to {n}", env="stairs", instruction=f"Stop on step {n}.", seed=n, config={"wanted": n, "seen": []})
    for n in range(1, 6)
]


class Stairs:
    """Go up and down, and stop on the right step."""

    def __init__(self):
        self.place = {"step": 0, "left": 0}

    @staticmethod
    def tasks(split):
        return TASKS[:3] if split == "train" else TASKS[3:]

    def reset(self, task):
        self.place = {"step": 0, "left": 6}
        self.wanted = task.config["wanted"]
        return self.look()

    def step(self, action):
        if not self.place["left"]:
            raise EnvError("call reset() before step()")
        self.place["left"] -= 1
        said = ""
        if action == "stop":
            self.place["left"] = 0
            here = self.place["step"]
            return StepResult(Observation(text=f"Stopped on {here}."), float(here == self.wanted), True, False)
        if action in ("up", "down"):
            self.place["step"] += 1 if action == "up" else -1
        else:
            said = self.refuse(action)
        return StepResult(self.look(said), 0.0, False, not self.place["left"])

    def refuse(self, action):
        return "There is no such action. "

    def look(self, said=""):
        listed = ("up", "down", "stop") if self.place["left"] else None
        return Observation(text=f"{said}On step {self.place['step']}.", actions=listed)

    def close(self):
        pass

    def snapshot(self):
        return copy.deepcopy(self.place), self.wanted

    def restore(self, snapshot):
        self.place, self.wanted = copy.deepcopy(snapshot)

    def same_observation(self, a, b):
        return a == b

    def hindsight_task(self, trajectory):
        reached = trajectory.final_observation.text.removeprefix("Stopped on ").removesuffix(".")
        return next((task for task in TASKS if str(task.config["wanted"]) == reached), None)


class Unseeded(Stairs):
    def look(self, said=""):
        return super().look(f"{said}It is {random.random()} degrees. ")


class OrderOfASet(Stairs):
    def look(self, said=""):
        return super().look(said + "Around: " + ", ".join({"moss", "rust", "dust", "sand", "rain", "wind"}) + ". ")


class ForgetsToReset(Stairs):
    def reset(self, task):
        self.place["left"] = 6
        self.wanted = task.config["wanted"]
        return self.look()


class SharesItsState(Stairs):
    shared: ClassVar = {}

    def reset(self, task):
        super().reset(task)
        self.shared.update(self.place)
        self.place = self.shared
        return self.look()


class EndsTwice(Stairs):
    def step(self, action):
        result = super().step(action)
        ended = result.terminated or result.truncated
        return result._replace(terminated=ended, truncated=ended)


class PaysNan(Stairs):
    def step(self, action):
        return super().step(action)._replace(env_reward=float("nan"))


class PaysInPoints(Stairs):
    def step(self, action):
        return super().step(action)._replace(env_reward=10.0)


class ReportsWords(Stairs):
    def step(self, action):
        return super().step(action)._replace(metrics={"price": "3 dollars"})


class ReportsTheUnnameable(Stairs):
    def step(self, action):
        return super().step(action)._replace(metrics={"fuel-used": 3.0})


class ReportsItsScore(Stairs):
    def step(self, action):
        return super().step(action)._replace(metrics={"steps": 1.0, "Score": 3.0})


class ReturnsATuple(Stairs):
    def step(self, action):
        return tuple(super().step(action))


class StumblesOverOddTexts(Stairs):
    def refuse(self, action):
        return f"There is no {action.encode('ascii').decode()}. "


class EchoesHalvesOfPairs(Stairs):
    def refuse(self, action):
        return f"There is no {action[:20]}. "


class EchoesEverything(Stairs):
    def refuse(self, action):
        return f"There is no {action!a}. "


class SaysNothingOfInvalidActions(Stairs):
    def refuse(self, action):
        return ""


class NeverEnds(Stairs):
    def step(self, action):
        self.place["left"] += 1
        return super().step(action if action != "stop" else "up")


class ListsTwice(Stairs):
    def look(self, said=""):
        return super().look(said).model_copy(update={"actions": ("up", "up")})


class ListsWhatItRefuses(Stairs):
    def look(self, said=""):
        return super().look(said).model_copy(update={"actions": ("jump", "stop")})


class AnswersBeforeReset(Stairs):
    def step(self, action):
        if "wanted" not in vars(self):
            return StepResult(Observation(text="Hello."), 0.0, False, False)
        return super().step(action)


class AnswersAfterTheEnd(Stairs):
    def step(self, action):
        if "wanted" in vars(self) and not self.place["left"]:
            return StepResult(Observation(text="It is over."), 0.0, True, False)
        return super().step(action)


class HandsOutItsState(Stairs):
    def snapshot(self):
        return self.place, self.wanted

    def restore(self, snapshot):
        self.place, self.wanted = snapshot


class SavesWhatCannotBePickled(Stairs):
    def snapshot(self):
        saved = super().snapshot()
        return lambda: saved

    def restore(self, snapshot):
        super().restore(snapshot())


class SavesHalf(Stairs):
    def snapshot(self):
        return copy.deepcopy(self.place)

    def restore(self, snapshot):
        self.place = copy.deepcopy(snapshot)


class TakesAllForTheSame(Stairs):
    def same_observation(self, a, b):
        return True


class ComparesOneWay(Stairs):
    def same_observation(self, a, b):
        return len(a.text) <= len(b.text)


class AsksForTheWrongThing(Stairs):
    def hindsight_task(self, trajectory):
        return TASKS[4]


class AsksForItUnderAnotherName(Stairs):
    asked = 0

    def hindsight_task(self, trajectory):
        self.asked += 1
        task = super().hindsight_task(trajectory)
        return task and task.model_copy(update={"id": f"{task.id} ({self.asked})"})


class Hangs(Stairs):
    def close(self):
        time.sleep(600)


class Dies(Stairs):
    def snapshot(self):
        print("I am going home", flush=True)
        os._exit(3)


class Leaves(Stairs):
    def reset(self, task):
        sys.exit("I am going home")


class WritesIntoItsTask(Stairs):
    def reset(self, task):
        task.config["seen"].append(1)
        return super().reset(task)


class CannotClose(Stairs):
    def close(self):
        raise RuntimeError("there is no door")


class HasNoStep:
    tasks = staticmethod(Stairs.tasks)
    reset = Stairs.reset
    close = Stairs.close


class MixesItsSplits(Stairs):
    @staticmethod
    def tasks(split):
        return TASKS


class HasNoTestTasks(Stairs):
    @staticmethod
    def tasks(split):
        return TASKS if split == "train" else []


class IsLongWinded(Stairs):
    rules = "Go up. " * 1000


class HasNoTasks:
    reset, step, close = Stairs.reset, Stairs.step, Stairs.close
