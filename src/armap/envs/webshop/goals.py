"""What shoppers are asked to buy: goals made of products, in the official order.

Source: WebShop, goal.py, `get_human_goals` and `get_synthetic_goals`. There, prices and limits are drawn from a
generator nobody seeds, so that every start is another benchmark; here the caller's generator draws them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product as combinations
from random import Random
from typing import Literal, TypeVar

from armap.envs.webshop.products import NO_ATTRIBUTES, Product
from armap.seeds import rng_for

GoalKind = Literal["synthetic", "human"]
"""Put together from a product's attributes and options, or written by a person."""

NO_PRICE_LIMIT_USD = 1_000_000.0
"""The limit of a goal that names none."""

_LIMITS_USD = tuple(10.0 * i for i in range(1, 100))
_LIMITS_CONSIDERED = 4
_ORDER_SEED = 233
_ATTRIBUTES_ASKED_FOR = 3

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Goal:
    """What to buy, and what a purchase is measured by."""

    product_id: str
    """A product that fulfils it."""
    instruction: str
    """What is asked for, in words, options and price limit included."""
    attributes: tuple[str, ...]
    """What the product should be like."""
    options: dict[str, str] | tuple[str, ...]
    """What to choose: values by group in a synthetic goal, values alone in a person's."""
    price_limit_usd: float
    """The most it may cost."""


def synthetic_goals(products: Iterable[Product], rng: Random) -> Iterator[Goal]:
    """Yield a goal for every combination of options of every product that has a written instruction.

    All goals of one product share one price limit, drawn from `rng`.
    """
    for product in products:
        if product.instruction is None or not product.instruction_attributes:
            continue
        limit, clause = draw_price_limit(product.price, rng)
        groups = sorted(product.options)
        for values in combinations(*(product.options[group] for group in groups)):
            options = dict(zip(groups, values, strict=True))
            instruction = f"{product.instruction}{options_clause(options)}{clause}"
            yield Goal(product.id, instruction, product.instruction_attributes, options, limit)


def human_goals(products: Iterable[Product], rng: Random) -> Iterator[Goal]:
    """Yield a goal for every instruction of a person that names an attribute; `rng` draws the price limits."""
    for product in products:
        for human in product.human_instructions:
            if not human.attributes:
                continue
            limit, clause = draw_price_limit(product.price, rng)
            yield Goal(product.id, human.instruction.strip(".") + clause, human.attributes, human.options, limit)


def official_order(goals: Sequence[_T]) -> list[_T]:
    """Return the goals, or anything else that stands for them, in the order their official numbers refer to.

    Source: WebShop, web_agent_text_env.py: a shuffle with seed 233.
    """
    ordered = list(goals)
    Random(_ORDER_SEED).shuffle(ordered)
    return ordered


def rng_of_goals(kind: GoalKind, seed: int, product_id: str) -> Random:
    """Return what draws the price limit of a product's goals in a catalogue of that seed."""
    return rng_for("webshop goals", kind, seed, product_id)


def goal_of_purchase(product: Product, chosen: Mapping[str, str], *, seed: int) -> Goal:
    """Return the goal that asks for just this product with these options; nothing else decides it.

    It is worded like a synthetic goal: the written instruction of the product, or else what it is called and some of
    its attributes; the options; and a limit above its price. Where there is such a goal it is that goal, so that who
    looks for it among the goals to evaluate on finds it.

    Args:
        product: what was bought.
        chosen: the options, by group.
        seed: that of the catalogue's goals.
    """
    options = dict(sorted(chosen.items()))
    attributes = product.instruction_attributes
    instruction = product.instruction
    rng = rng_of_goals("synthetic", seed, product.id)
    if instruction is None or not attributes:
        known = () if product.attributes == NO_ATTRIBUTES else product.attributes
        drawn = sorted(rng.sample(range(len(known)), min(_ATTRIBUTES_ASKED_FOR, len(known))))
        attributes = tuple(known[i] for i in drawn)
        instruction = " ".join(filter(None, ("Find me", ", ".join(attributes), product.label)))
    limit, clause = draw_price_limit(product.price, rng)
    return Goal(product.id, f"{instruction}{options_clause(options)}{clause}", attributes, options, limit)


def draw_price_limit(price_usd: float, rng: Random) -> tuple[float, str]:
    """Return a limit above `price_usd`, and the words that end an instruction with it; no words if there is none."""
    considered = [limit for limit in _LIMITS_USD if limit > price_usd][:_LIMITS_CONSIDERED]
    if len(considered) < 2:
        return NO_PRICE_LIMIT_USD, ""
    limit = max(rng.sample(considered, 2))
    return limit, f", and price lower than {limit:.2f} dollars"


def options_clause(options: dict[str, str]) -> str:
    """Return the words that ask for `options`; none if there are none."""
    return " with " + ", and ".join(f"{group}: {value}" for group, value in options.items()) if options else ""
