"""What a purchase is worth: how well the bought product, with its chosen options and price, fits the goal.

Source: WebShop, section 3 and goal.py, `get_reward`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from rapidfuzz.fuzz import token_set_ratio
from rapidfuzz.utils import default_process

from armap.envs.webshop.goals import Goal
from armap.envs.webshop.products import Product
from armap.envs.webshop.tagger import NounTagger

# In WebShop's order, which decides: of the names a value contains, the first in this list counts.
# Source: WebShop, normalize.py, `COLOR_SET`.
_COLOUR_NAMES = """
    alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown burgundy camel camo
    caramel champagne charcoal cheetah chestnut chocolate christmas coffee cognac copper coral cranberry cream crystal
    dark denim eggplant elephant espresso fuchsia gold granite grape graphite grass gray green grey heather indigo ivory
    ivy khaki lavender lemon leopard light lilac lime magenta maroon mauve merlot midnight mint mocha multicolor
    mushroom mustard natural navy nude olive orange peach pewter pink plum purple rainbow red rose royal rust sand
    sapphire seashell silver skull slate steel stone stonewash sunflower tan taupe teal tiger turquoise violet walnut
    wheat white wine yellow
"""
_COLOURS = tuple(_COLOUR_NAMES.split())

_ALIKE_PERCENT = 85
_LATIN_1 = dict.fromkeys(range(128, 256))


class Reward(NamedTuple):
    """A reward and its parts."""

    total: float
    """From 0 to 1."""
    type_factor: float
    """1 for the right kind of product; 0.5, 0.1 or 0 for the wrong one."""
    attributes: int
    """Attributes of the goal that the product has."""
    options: int
    """Options of the goal that were chosen."""
    price: bool
    """The price is within the limit."""


def reward(
    bought: Product,
    chosen: Mapping[str, str],
    goal: Goal,
    wanted: Product,
    *,
    nouns: NounTagger,
    faithful: bool = True,
) -> Reward:
    """Return what buying `bought` is worth.

    It is the share of the goal's attributes, options and price limit that are met, times the type factor.

    Args:
        bought: the product.
        chosen: its chosen options, values by group.
        goal: what was asked for.
        wanted: the goal's own product, which says what kind of thing is wanted.
        nouns: finds the nouns of titles.
        faithful: compare options as WebShop does: a chosen value that contains the name of a colour anywhere
            (`rectangular` contains `tan`) is replaced by that name; an option of a synthetic goal is compared as the
            text of the pair of its group and value, and replaced by a colour only if one of the two is exactly that;
            and texts count as equal that are 86 % alike, such as `10 inch` and `12 inch`. So a purchase of just what
            was asked for may be paid less than 1, another one too much, and a value may count in another group.
            Otherwise values count as equal if one has all the words of the other, and those of a synthetic goal are
            compared with the choice in their own group only. Nothing else differs.
    """
    type_factor = _type_factor(bought, wanted, nouns)
    attributes = sum(_has_attribute(bought, attribute) for attribute in goal.attributes)
    options = _options_as_webshop(chosen, goal.options) if faithful else _options_met(chosen, goal.options)
    price = bought.price <= goal.price_limit_usd
    share = (attributes + options + price) / (len(goal.attributes) + len(goal.options) + 1)
    return Reward(share * type_factor, type_factor, attributes, options, price)


def _type_factor(bought: Product, wanted: Product, nouns: NounTagger) -> float:
    wanted_nouns = nouns(wanted.title)
    common = len(set(nouns(bought.title)) & set(wanted_nouns))
    title_score = common / len(wanted_nouns) if wanted_nouns else 0.2
    if title_score == 0:
        return 0.0
    if title_score < 0.1:
        return 0.1
    alike = bought.label == wanted.label or len(_categories(bought) & _categories(wanted)) >= 2 or title_score > 0.2
    return 1.0 if alike else 0.5


def _categories(product: Product) -> set[str]:
    return {category.strip() for category in product.category_path.split("›")}


def _has_attribute(bought: Product, wanted: str) -> bool:
    return (
        any(_alike(attribute, wanted) for attribute in bought.attributes)
        or wanted in bought.title.lower()
        or wanted in " ".join(bought.features).lower()
        or wanted in bought.description.lower()
    )


def _options_as_webshop(chosen: Mapping[str, str], wanted: Mapping[str, str] | tuple[str, ...]) -> int:
    have = [str(_colour_or_itself(value)) for value in chosen.values()]
    asked = wanted.items() if isinstance(wanted, Mapping) else wanted
    return sum(any(_alike(value, str(_colour_or_itself(one))) for value in have) for one in asked)


def _options_met(chosen: Mapping[str, str], wanted: Mapping[str, str] | tuple[str, ...]) -> int:
    if isinstance(wanted, Mapping):
        return sum(group in chosen and _same_words(chosen[group], value) for group, value in wanted.items())
    return sum(any(_same_words(value, one) for value in chosen.values()) for one in wanted)


def _same_words(a: str, b: str) -> bool:
    one, other = set(default_process(a).split()), set(default_process(b).split())
    return a == b or (bool(one and other) and (one <= other or other <= one))


def _colour_or_itself(option: str | tuple[str, str]) -> str | tuple[str, str]:
    return next((colour for colour in _COLOURS if colour in option), option)


def _alike(a: str, b: str) -> bool:
    """Say whether the words of `a` and `b` are much the same.

    Source: thefuzz, `token_set_ratio`, which leaves out Latin-1 letters beyond ASCII and rounds to whole percents.
    """
    score = token_set_ratio(default_process(a.translate(_LATIN_1)), default_process(b.translate(_LATIN_1)))
    return round(score) > _ALIKE_PERCENT
