"""What a catalogue of WebShop's full size costs: to build, on disk, to open, in memory and to act in.

The full catalogue cannot be shipped, so a smaller one is multiplied: the one that comes with the package, or official
files. Every copy gets an id, a brand and a model number of its own, a title in another order, and a description and
bullet points of other products, so that words and their combinations grow as they do in a real catalogue.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import psutil
from env_webshop import shopping
from rich.console import Console
from rich.table import Table

from armap.envs.webshop.catalogue import generate
from armap.envs.webshop.environment import WebShop
from armap.envs.webshop.index import Catalogue, build, official_files
from armap.envs.webshop.products import Product, read_products
from armap.errors import ArmapError

FULL_CATALOGUE = 1_180_000
SEARCHES = 100
STEPS = 1_000
_SYLLABLES = [consonant + vowel for consonant in "bcdfghjklmnprstvxz" for vowel in "aeio"]
_BRANDS = 60_000


def multiplied(products: list[Product], count: int) -> Iterator[Product]:
    """Yield `count` products, all different."""
    rng = Random(0)
    brands = ["".join(rng.choices(_SYLLABLES, k=rng.randint(2, 4))) for _ in range(_BRANDS)]
    # A few brands are everywhere, most are rare.
    often = list(accumulate(1 / (rank + 20) for rank in range(_BRANDS)))
    for number in range(count):
        product, other, third = products[number % len(products)], rng.choice(products), rng.choice(products)
        words = product.title.split()
        rng.shuffle(words)
        (brand,) = rng.choices(brands, cum_weights=often)
        model = f"{rng.choice(_SYLLABLES)}{rng.randint(10, 99999)}"
        yield replace(
            product,
            id=f"X{number:09d}",
            title=f"{brand} {' '.join(words)} {model}",
            description=other.description,
            features=(*third.features, *product.features[1:]),
        )


def resident_mb() -> float:
    """Return the memory this process holds, pages of mapped files included."""
    return psutil.Process().memory_info().rss / 2**20


def own_mb() -> float:
    """Return the memory this process holds without pages of mapped files, which the system takes back at will."""
    held = psutil.Process().memory_info()
    return (held.rss - held.shared) / 2**20


def measure(folder: Path) -> dict[str, float]:
    """Open a catalogue in this process, which must be a fresh one, search it and act in it."""
    before = resident_mb()
    started = time.perf_counter()
    catalogue = Catalogue(folder)
    opened = time.perf_counter()
    after_opening = resident_mb()
    queries = list(requests(catalogue))
    seconds = []
    begun_cpu = time.process_time()
    for query in queries:
        begun = time.perf_counter()
        catalogue.search(query)
        seconds.append(time.perf_counter() - begun)
    cpu = time.process_time() - begun_cpu
    after_searching = resident_mb()
    spent, counts = shopping(WebShop(folder), STEPS)
    return {
        "open_s": opened - started,
        "resident_before_mb": before,
        "resident_open_mb": after_opening,
        "resident_searched_mb": after_searching,
        "resident_acted_mb": resident_mb(),
        "own_acted_mb": own_mb(),
        "search_median_ms": statistics.median(seconds) * 1e3,
        "search_p95_ms": statistics.quantiles(seconds, n=20)[-1] * 1e3,
        "searches_per_s": len(seconds) / sum(seconds),
        "searches_per_cpu_s": len(seconds) / cpu,
        "steps_per_s": (counts.total() - counts["reset"]) / sum(spent.values()),
    }


def requests(catalogue: Catalogue) -> Iterator[str]:
    """Yield what an agent may search for: whole instructions, and a few words, in turn."""
    rng = Random(1)
    goals = catalogue.goals("synthetic")
    for number in range(SEARCHES):
        goal = goals[rng.randrange(len(goals))]
        label = catalogue.product(goal.product_id).label
        yield goal.instruction if number % 2 else f"{rng.choice(goal.attributes)} {label}"


def main() -> None:
    """Print a table, and as the last line one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--products", type=int, default=FULL_CATALOGUE, help="how many to build")
    parser.add_argument("--source", type=Path, help="official files to multiply; by default the embedded catalogue")
    parser.add_argument("--folder", type=Path, help="where to build, on a disk with 8 GB left; it is emptied again")
    arguments = parser.parse_args()
    try:
        source = list(read_products(*official_files(arguments.source))) if arguments.source else generate()
    except ArmapError as error:
        sys.exit(str(error))
    with TemporaryDirectory(dir=arguments.folder) as scratch:
        folder = Path(scratch) / "catalogue"
        started, started_cpu = time.perf_counter(), time.process_time()
        build(folder, multiplied(source, arguments.products))
        figures: dict[str, float] = {
            "products": arguments.products,
            "index_s": time.perf_counter() - started,
            "index_cpu_s": time.process_time() - started_cpu,
            "index_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
            "disk_mb": sum(file.stat().st_size for file in folder.iterdir()) / 2**20,
        }
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
            figures |= fresh.submit(measure, folder).result()
    table = Table("what", "figure")
    for name, figure in figures.items():
        table.add_row(name.replace("_", " "), f"{figure:,.4g}" if figure < 1000 else f"{figure:,.0f}")
    Console().print(table)
    print(json.dumps({"name": "webshop_scale", **figures}))


if __name__ == "__main__":
    main()
