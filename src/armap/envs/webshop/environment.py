"""WebShop as an environment: find a product that fits an instruction, choose its options, buy it.

Source: Yao et al., WebShop: Towards Scalable Real-World Web Interaction with Grounded Language Agents (2022).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from armap.envs.play import play
from armap.envs.webshop.goals import Goal, goal_of_purchase, options_clause
from armap.envs.webshop.index import Catalogue, open_embedded, open_or_build
from armap.envs.webshop.pages import Page, as_rich_text, as_text, clickables
from armap.envs.webshop.reward import reward
from armap.envs.webshop.session import Session, Shop, read_action
from armap.envs.webshop.splits import order_of, task_of, tasks
from armap.envs.webshop.suggestions import suggested_searches
from armap.envs.webshop.tagger import NounTagger, default_tagger
from armap.errors import EnvError
from armap.images import ImageFolder
from armap.prompts import load_prompt
from armap.protocols import StepResult
from armap.types import Observation, Task, Trajectory

ObservationKind = Literal["text", "text_rich", "html"]
"""WebShop's plain text, the one with buttons marked, or the page as a browser gets it."""

_ILLEGAL = (
    "Illegal action: write search[words], or click[thing] with a button, product id or option on this page. "
    "On the page with the search bar only search[words] works. "
)
_EXAMPLE_CANDIDATES = 40
_RESULTS_BUTTONS = ("click[back to search]", "click[next >]")


class _Episode(NamedTuple):
    """The whole state of the environment; never changed."""

    goal: Goal
    session: Session
    steps_left: int
    steps_taken: int

    @property
    def over(self) -> bool:
        return self.session.kind == "done" or self.steps_left == 0


class WebShop:
    """A shop on the web.

    An action is `search[words]`, or `click[thing]` with what can be clicked on the page. As in the original, `search`
    is obeyed on every page, although only one shows a search bar; the legal actions that an observation lists are the
    clicks, and none are listed where there is nothing but the search bar. Unlike the original, which shows the page
    again without a word, an illegal action is answered by a sentence before the page; and the last page says what was
    bought instead of the score.

    `Task.config` holds `catalogue` (a fingerprint), `product_id`, `attributes`, `options`, `price_limit_usd` and, where
    the default of 15 does not suit, `step_limit`. A purchase is paid from 0 to 1; see `reward.reward`. It is reported
    with the metrics `price` (of the product, in dollars) and `steps`.

    Args:
        catalogue: what is sold; or the folder of a catalogue, of WebShop's official files, or the path of their file of
            products; the catalogue that comes with the package if None.
        observation: how pages are shown.
        faithful: keep the quirks of the original's reward and its hidden words for searching.
        tagger: finds nouns for the reward; `default_tagger` if None.
        suggest: on the page with the search bar, list a few searches made of words of the instruction, so that an
            agent can choose there too.
        images: where pictures of the pages go; no observation has one if None.
        painter: makes the picture of a page, as the bytes of a PNG file; `painting.paint` if None.

    Raises:
        ConfigError: an official file is missing.
        DataError: the folder holds no catalogue, or something in it is malformed.
    """

    inline: ClassVar[bool] = True
    """A step is quick and never hangs."""
    rules: ClassVar[str] = load_prompt("act_webshop")
    """What an action is, for the policy's prompt."""

    def __init__(
        self,
        catalogue: Catalogue | Path | None = None,
        *,
        observation: ObservationKind = "text",
        faithful: bool = True,
        tagger: NounTagger | None = None,
        suggest: bool = False,
        images: ImageFolder | None = None,
        painter: Callable[[Page], bytes] | None = None,
    ) -> None:
        self.catalogue = catalogue if isinstance(catalogue, Catalogue) else opened(catalogue)
        self.faithful = faithful
        self.tagger = tagger or default_tagger()
        self._suggest = suggest
        self._observation = observation
        self._text = _text_of(observation)
        self._images = images
        self._painter = painter or _default_painter() if images else None
        self._shop = Shop(self.catalogue, faithful=faithful)
        self._episode: _Episode | None = None

    @property
    def build(self) -> str:
        """What decides the behaviour, in a few words: equal builds answer equal actions equally."""
        quirks = "faithful" if self.faithful else "without quirks"
        listed = ", searches suggested" if self._suggest else ""
        return (
            f"webshop {self.catalogue.fingerprint}, {self._observation}, {quirks}, nouns by {self.tagger.name}{listed}"
        )

    @cached_property
    def examples(self) -> tuple[Trajectory, ...]:
        """A solved task of the catalogue that comes with the package, for the policy's prompt."""
        return (example(self._observation),)

    def reset(self, task: Task) -> Observation:
        """Show the page with the search bar.

        Raises:
            EnvError: the config is not that of a purchase, or was made for another catalogue.
        """
        order = order_of(task, self.catalogue)
        goal = Goal(order.product_id, task.instruction, order.attributes, order.options, order.price_limit_usd)
        self._episode = _Episode(goal, Session(task.instruction, task.seed), order.step_limit, 0)
        return self._observe(self._episode)

    def step(self, action: str) -> StepResult:
        """Search, click or buy; an illegal action changes nothing but costs a step.

        Raises:
            EnvError: the episode is over, or none was started.
        """
        before = self._episode
        if before is None or before.over:
            raise EnvError("webshop has no episode to go on with: call reset() before step()")
        session = self._shop.after(before.session, action)
        now = _Episode(before.goal, session or before.session, before.steps_left - 1, before.steps_taken + 1)
        self._episode = now
        observation = self._observe(now, said="" if session else _ILLEGAL)
        if now.session.kind != "done":
            return StepResult(observation, 0.0, terminated=False, truncated=now.over)
        metrics = {"price": self._shop.product(now.session).price, "steps": float(now.steps_taken)}
        return StepResult(observation, self._pays(now.goal, now.session), True, False, metrics)

    def snapshot(self) -> object:
        """Return the state; see `armap.protocols.Snapshots`."""
        return self._episode

    def restore(self, snapshot: object) -> None:
        """Go to a state that was saved; see `armap.protocols.Snapshots`.

        Raises:
            EnvError: it is no state of this environment.
        """
        if not isinstance(snapshot, _Episode | None):
            raise EnvError(f"webshop cannot restore a {type(snapshot).__name__}; give what snapshot() returned")
        self._episode = snapshot

    def close(self) -> None:
        """Nothing is held: the catalogue belongs to the process."""

    def hindsight_task(self, trajectory: Trajectory) -> Task | None:
        """Return the task that asks for just what `trajectory` bought.

        It is worded like a synthetic goal: the written instruction of the product, or else what it is called and some
        of its attributes; the options that were chosen; and a limit above its price. Nothing but the purchase and the
        shop decides it. It is None if nothing was bought, or if a quirk of the reward pays less than 1 even so.
        """
        bought = self._last_session(trajectory)
        if bought.kind != "done":
            return None
        product = self._shop.product(bought)
        goal = goal_of_purchase(product, dict(bought.chosen), seed=self.catalogue.seed)
        if self._pays(goal, bought) != 1.0:
            return None
        name = f"{product.id}{options_clause(dict(sorted(bought.chosen)))}"
        step_limit = order_of(trajectory.task, self.catalogue).step_limit
        task = task_of(name, goal, self.catalogue, trajectory.task.split, step_limit)
        return task.model_copy(update={"seed": trajectory.task.seed})

    def _pays(self, goal: Goal, session: Session) -> float:
        bought, wanted = self._shop.product(session), self.catalogue.product(goal.product_id)
        chosen = dict(session.chosen)
        return reward(bought, chosen, goal, wanted, nouns=self.tagger, faithful=self.faithful).total

    def _last_session(self, trajectory: Trajectory) -> Session:
        session = Session(trajectory.task.instruction, trajectory.task.seed)
        for action in trajectory.actions:
            session = self._shop.after(session, action) or session
        return session

    def _observe(self, episode: _Episode, said: str = "") -> Observation:
        page = self._shop.page(episode.session)
        actions = None if episode.over else legal_actions(page)
        if page.kind == "search" and self._suggest and not episode.over:
            actions = tuple(f"search[{words}]" for words in suggested_searches(page.instruction)) or None
        image = self._images.add(self._painter(page)) if self._images and self._painter else None
        return Observation(text=said + self._text(page), actions=actions, image=image)


def legal_actions(page: Page) -> tuple[str, ...] | None:
    """Return every click that is possible on `page`; None on the page with the search bar, and after a purchase."""
    if page.kind in ("search", "done"):
        return None
    actions = [f"click[{target}]" for target in clickables(page)]
    # Nothing reaches an option whose value holds a bracket.
    return tuple(action for action in actions if read_action(action) == ("click", action[6:-1]))


@cache
def opened(path: Path | None) -> Catalogue:
    """Return the one catalogue of this process that is at `path`; see `WebShop`."""
    if path is None:
        return open_embedded()
    official = path.is_file() or any(path.glob("items_shuffle*.json"))
    return open_or_build(path) if official else Catalogue(path)


def _text_of(observation: ObservationKind) -> Callable[[Page], str]:
    if observation == "html":
        from armap.envs.webshop.html import as_html

        return as_html
    return as_text if observation == "text" else as_rich_text


def _default_painter() -> Callable[[Page], bytes]:
    from armap.envs.webshop.painting import paint

    return paint


@cache
def example(observation: ObservationKind) -> Trajectory:
    """Return a solved training task of the catalogue that comes with the package.

    Of some it is the one whose product shows in its title most of what is asked for, and of these the shortest to read.
    """
    shop = WebShop(observation=observation)
    solved = (_solved(shop, task) for task in tasks(shop.catalogue, "train"))

    def hard_to_read(trajectory: Trajectory) -> tuple[int, int]:
        order = order_of(trajectory.task, shop.catalogue)
        title = shop.catalogue.product(order.product_id).title.lower()
        unseen = sum(attribute not in title for attribute in order.attributes)
        return unseen, sum(len(step.observation.text) for step in trajectory.steps)

    return min(islice(filter(None, solved), _EXAMPLE_CANDIDATES), key=hard_to_read)


def _solved(shop: WebShop, task: Task) -> Trajectory | None:
    """Return how a shopper fulfils a task that asks for options; None if the product is not the first to be found."""
    order = order_of(task, shop.catalogue)
    product = shop.catalogue.product(order.product_id)
    if not isinstance(order.options, dict) or not order.options:
        return None
    search = f"search[{' '.join((*order.attributes, product.label))}]"
    target = f"click[{product.id.lower()}]"
    shop.reset(task)
    found = shop.step(search).observation.actions or ()
    if found[: len(_RESULTS_BUTTONS) + 1] != (*_RESULTS_BUTTONS, target):
        return None
    options = [f"click[{value}]" for value in order.options.values()]
    trajectory = play(shop, task, (search, target, *options, "click[buy now]"))
    return trajectory if trajectory.env_reward == 1 else None
