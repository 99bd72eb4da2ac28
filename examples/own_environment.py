"""An environment of your own in one file: measure water with two jugs that have no marks.

From the folder this file is in, check it with `armap check-env own_environment:Jugs`, and then do to it what the demo
does to its own: `armap collect --run runs/jugs --env own_environment:Jugs`, then synthesize, train and evaluate.
"""

from armap.envs.play import play
from armap.errors import EnvError
from armap.protocols import StepResult
from armap.types import Observation, Task, Trajectory

STEP_LIMIT = 8


class Jugs:
    """A small and a big jug, a tap and a sink. The big jug is to be left with so many litres in it."""

    # What an action is, for the language model that acts.
    rules = (
        "Measure water with a small and a big jug: fill one, empty it, or pour it into the other until that is full.\n"
        "Write one action per turn, and `stop` when the right amount is in the big jug. For example: fill big"
    )
    # True where a step is quick and never hangs. Without it, environments run in worker processes.
    inline = True

    @staticmethod
    def tasks(split: str) -> list[Task]:
        """Return all tasks of split `train` or `test`; the same call must always return the same tasks."""
        pairs = [(small, big) for big in range(3, 10) for small in range(2, big)]
        # Tasks of split test measure what was learned, so no pair of jugs is in both.
        pairs = [pair for pair in pairs if (sum(pair) % 4 == 1) == (split == "test")]
        return [jugs_task(*pair, wanted, split) for pair in pairs for wanted in sorted(within_reach(pair))]

    def __init__(self) -> None:
        """Make a kitchen in which nothing is going on."""
        self.steps_left = 0

    def reset(self, task: Task) -> Observation:
        """Start a task: whatever `step` changes is set anew here."""
        # `task.config` is what you put there. Draw random numbers, if you need any, from random.Random(task.seed).
        self.sizes = task.config["small"], task.config["big"]
        self.wanted = task.config["wanted"]
        self.litres = 0, 0
        self.steps_left = STEP_LIMIT
        return self.look()

    def step(self, action: str) -> StepResult:
        """Do what an action says. A language model may write anything: what makes no sense is told, not raised."""
        if not self.steps_left:
            raise EnvError("there is no episode to go on with: call reset() before step()")
        self.steps_left -= 1
        if action == "stop":
            self.steps_left = 0
            # The reward is for measuring only. Neither the agent nor its judge may see it, so the text must not tell.
            env_reward = 1.0 if self.litres[1] == self.wanted else 0.0
            return StepResult(Observation(text=outcome(self.litres[1])), env_reward, terminated=True, truncated=False)
        possible = moves(self.sizes, self.litres)
        said = "" if action in possible else "That is not possible now. "
        self.litres = possible.get(action, self.litres)
        return StepResult(self.look(said), 0.0, terminated=False, truncated=not self.steps_left)

    def close(self) -> None:
        """Release what is held, such as files and processes: here nothing."""

    def look(self, said: str = "") -> Observation:
        """Describe the jugs. Listing the possible actions may be left out, but helps small models greatly."""
        jugs = zip(("small", "big"), self.litres, self.sizes, strict=True)
        text = said + " ".join(f"The {name} jug holds {litres} of {size} litres." for name, litres, size in jugs)
        return Observation(text=text, actions=(*moves(self.sizes, self.litres), "stop") if self.steps_left else None)

    # What follows may be left out.

    def hindsight_task(self, trajectory: Trajectory) -> Task | None:
        """Return the task that an attempt turned out to solve, or None. The judge is trained on such tasks."""
        start = trajectory.task
        for litres in range(1, start.config["big"] + 1):
            if trajectory.final_observation.text == outcome(litres):
                return jugs_task(start.config["small"], start.config["big"], litres, start.split)
        return None

    def snapshot(self) -> object:
        """Save the state: going back to it is quicker than repeating all actions."""
        return self.sizes, self.litres, self.wanted, self.steps_left

    def restore(self, snapshot: object) -> None:
        """Go to a state that this environment, or another one, saved."""
        self.sizes, self.litres, self.wanted, self.steps_left = snapshot


def moves(sizes: tuple[int, int], litres: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Return every move that changes something, and the litres in both jugs after it."""
    (small, big), (a, b) = sizes, litres
    up, down = min(a, big - b), min(b, small - a)
    poured = {"pour small into big": (a - up, b + up), "pour big into small": (a + down, b - down)}
    turned = {"fill small": (small, b), "fill big": (a, big), "empty small": (0, b), "empty big": (a, 0)}
    return {move: after for move, after in {**turned, **poured}.items() if after != litres}


def within_reach(sizes: tuple[int, int]) -> set[int]:
    """Return the amounts that can be had in the big jug within four moves, other than nothing."""
    states = {(0, 0)}
    for _ in range(4):
        states |= {after for litres in states for after in moves(sizes, litres).values()}
    return {big for _, big in states} - {0}


def jugs_task(small: int, big: int, wanted: int, split: str) -> Task:
    """Return the task of leaving `wanted` litres in the big jug."""
    instruction = f"The jugs hold {small} and {big} litres. Stop with {wanted} litres in the big jug."
    config = {"small": small, "big": big, "wanted": wanted}
    return Task(id=f"{small}, {big} -> {wanted}", env="jugs", instruction=instruction, split=split, config=config)


def outcome(litres: int) -> str:
    """Return the last observation."""
    return f"You stop with {litres} litres in the big jug."


# Solved tasks to show the language model before its own.
Jugs.examples = (play(Jugs(), jugs_task(2, 5, 3, "train"), ("fill big", "pour big into small", "stop")),)
