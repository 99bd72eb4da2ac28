"""A reward model that does what the task tells it to, served by a process of its own.

The task is a list of `name=value`: `say` is the score, `wait` the seconds that the whole batch takes, `fail` makes it
fail, `break` is a bug, `stumble` one that shows while tokens are counted, `tokens` is how many it reads. To the score
it adds the red in the last picture, from 0 to 1. It reads at most 100 tokens, and texts as if they were tasks.
"""

import asyncio
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from armap.errors import RewardModelError
from armap.images import ImageFolder
from armap.rewards.rendering import ReadTrajectory
from armap.serve.app import make_app
from armap.serve.limits import Limits
from armap.serve.listening import serve
from armap.types import Trajectory


class OddRewardModel:
    def __init__(self, images: ImageFolder) -> None:
        self._images = images

    def read(self, trajectory: Trajectory | str, /) -> ReadTrajectory:
        if "stumble" in orders(trajectory):
            raise ZeroDivisionError("/a/secret/path")
        count = int(orders(trajectory).get("tokens", 7))
        if count > 100:
            raise RewardModelError("/a/secret/path reads at most 100 tokens")
        return ReadTrajectory((0,) * count, {}, [])

    async def score(self, trajectories: Sequence[Trajectory], /) -> list[float]:
        return await self.score_read(trajectories, [self.read(one) for one in trajectories])

    async def score_read(
        self, trajectories: Sequence[Trajectory | str], read: Sequence[ReadTrajectory], /
    ) -> list[float]:
        asked = [orders(trajectory) for trajectory in trajectories]
        await asyncio.sleep(max(float(one.get("wait", 0)) for one in asked))
        if any("fail" in one for one in asked):
            raise RewardModelError("/a/secret/path gives no score")
        if any("break" in one for one in asked):
            raise ZeroDivisionError("/a/secret/path")
        return [
            float(one.get("say", 0)) + self._red(trajectory)
            for one, trajectory in zip(asked, trajectories, strict=True)
        ]

    def _red(self, trajectory: Trajectory | str) -> float:
        shown = None if isinstance(trajectory, str) else trajectory.final_observation.image
        if shown is None:
            return 0.0
        pixel = Image.open(io.BytesIO(self._images.read(shown))).convert("RGB").getpixel((0, 0))
        return pixel[0] / 255


def orders(trajectory: Trajectory | str) -> dict[str, str]:
    text = trajectory if isinstance(trajectory, str) else trajectory.task.instruction
    return dict(word.split("=", 1) for word in text.split() if "=" in word)


def main() -> None:
    settings = json.loads(sys.argv[1])
    limits = Limits(**settings.pop("limits", {}))
    with TemporaryDirectory() as folder:
        images = ImageFolder(Path(folder))
        serve(
            make_app(OddRewardModel(images), name="odd", images=images, limits=limits, **settings),
            host="127.0.0.1",
            port=0,
            limits=limits,
            announce=lambda address: print(f"served at {address};", flush=True),
        )
        print("left over:", sum(file.is_file() for file in Path(folder).rglob("*")), flush=True)


if __name__ == "__main__":
    main()
