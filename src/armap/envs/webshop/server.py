"""The shop as web pages that a person can use, with the state machine of the environment underneath.

Every state of a session has an address of its own, `/page/<name>`, so that the back button, a second tab and a bookmark
do what is expected of them; there are no cookies. A link or a form leads to the address of its page with `?click=` or
`?search=`, which does the action there and redirects to the page of the state it leads to. What a purchase is worth is
on a page of its own, for those who want to know.
"""

from __future__ import annotations

import json
import secrets
import socket
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from importlib import resources
from typing import NamedTuple, get_args
from urllib.parse import urlencode

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from armap.envs.webshop.goals import Goal, GoalKind
from armap.envs.webshop.html import CARD_PICTURE_PX, ITEM_PICTURE_PX, as_html, document, safe
from armap.envs.webshop.index import Catalogue
from armap.envs.webshop.painting import drawn
from armap.envs.webshop.products import Product
from armap.envs.webshop.reward import Reward, reward
from armap.envs.webshop.session import Session, Shop
from armap.envs.webshop.splits import order_of, parse_task
from armap.envs.webshop.tagger import NounTagger, default_tagger
from armap.errors import ConfigError
from armap.types import Task

_STYLESHEET = "/shop.css"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self' data:; style-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
_KEPT = {**_HEADERS, "Cache-Control": "public, max-age=3600"}


class _Place(NamedTuple):
    """Where a shopper is."""

    task: Task | None
    """What the shopper was asked to do; None for one who just shops."""
    session: Session
    """The state of the shop."""


class _Site:
    """The pages.

    Args:
        catalogue: what is sold.
        faithful: keep the quirks of the original; see `Shop` and `reward`.
        tagger: finds nouns for the reward.
        remembered_pages: addresses that are known at a time.
    """

    def __init__(self, catalogue: Catalogue, faithful: bool, tagger: NounTagger, remembered_pages: int) -> None:
        self._catalogue = catalogue
        self._faithful = faithful
        self._tagger = tagger
        self._remembered_pages = remembered_pages
        self._shop = Shop(catalogue, faithful=faithful)
        self._places: OrderedDict[str, _Place] = OrderedDict()

    async def front(self, request: Request) -> Response:
        """Let the visitor choose a task."""
        return _page("WebShop", self._choice(""))

    async def start(self, request: Request) -> Response:
        """Begin the task that `?task=` names, a random one, or none."""
        text = request.query_params.get("task", "")
        if text == "none":
            return self._go_to(_Place(None, Session("")))
        try:
            task = self._random_task() if text == "random" else parse_task(self._catalogue, text)
        except ConfigError as error:
            return _page("WebShop", self._choice(str(error)), status=400)
        return self._go_to(_Place(task, Session(task.instruction, task.seed)))

    async def page(self, request: Request) -> Response:
        """Show a state, or do an action there."""
        place = self._place(request)
        if place is None:
            return _lost()
        action = _action(request)
        if action is not None:
            session = self._shop.after(place.session, action) or place.session
            if session.kind == "done" and request.method != "POST":
                return Response("A purchase is a POST.", 405, headers={**_HEADERS, "Allow": "POST"})
            return self._go_to(_Place(place.task, session))
        links = [("Choose another task", "/")]
        if place.task and place.session.kind == "done":
            links.append(("Show what this purchase is worth", f"{request.url.path}/worth"))
        page = self._shop.page(place.session)
        html = as_html(page, picture_address=_picture_address, stylesheet_address=_STYLESHEET, links=links)
        return HTMLResponse(html, headers=_HEADERS)

    async def worth(self, request: Request) -> Response:
        """Show the environment's reward of a purchase."""
        place = self._place(request)
        if place is None or place.task is None or place.session.kind != "done":
            return _lost()
        order = order_of(place.task, self._catalogue)
        goal = Goal(order.product_id, place.task.instruction, order.attributes, order.options, order.price_limit_usd)
        bought, wanted = self._shop.product(place.session), self._catalogue.product(goal.product_id)
        chosen = dict(place.session.chosen)
        paid = reward(bought, chosen, goal, wanted, nouns=self._tagger, faithful=self._faithful)
        return _page("What it is worth", _worth(paid, goal), links=[("Choose another task", "/")])

    async def picture(self, request: Request) -> Response:
        """Draw a product, or take what was drawn before."""
        asked = request.query_params
        name, size, look = asked.get("product", ""), asked.get("size", ""), asked.get("look")
        if name not in self._catalogue or size not in (str(CARD_PICTURE_PX), str(ITEM_PICTURE_PX)):
            return _lost()
        product = self._catalogue.product(name)
        offered = any(look in values for values in product.options.values())
        png = drawn(product, int(size), look if offered else None)
        return Response(png, media_type="image/png", headers=_KEPT)

    async def stylesheet(self, request: Request) -> Response:
        """Return how everything looks."""
        css = resources.files(__package__).joinpath("shop.css").read_bytes()
        return Response(css, media_type="text/css", headers=_KEPT)

    def _place(self, request: Request) -> _Place | None:
        name = request.path_params["name"]
        if name in self._places:
            self._places.move_to_end(name)
        return self._places.get(name)

    def _go_to(self, place: _Place) -> Response:
        session = place.session
        state = (session.kind, session.words, session.number, session.product_id, session.chosen)
        text = json.dumps([place.task and place.task.id, session.seed, *state, sorted(session.visited)])
        name = sha256(text.encode()).hexdigest()[:16]
        self._places[name] = place
        self._places.move_to_end(name)
        if len(self._places) > self._remembered_pages:
            self._places.popitem(last=False)
        return RedirectResponse(f"/page/{name}", 303, headers={**_HEADERS, "Cache-Control": "no-store"})

    def _random_task(self) -> Task:
        kind: GoalKind = "synthetic" if self._catalogue.goals("synthetic") else "human"
        count = len(self._catalogue.goals(kind))
        if count == 0:
            raise ConfigError("This shop has no tasks; just look around.")
        return parse_task(self._catalogue, f"{kind} {secrets.randbelow(count)}")

    def _choice(self, trouble: str) -> str:
        synthetic, human = (len(self._catalogue.goals(kind)) for kind in get_args(GoalKind))
        numbers = f"0 to {synthetic - 1}" if synthetic else "There is none."
        numbers += f", or human 0 to human {human - 1}" if human else ""
        alert = f'<p class="trouble" role="alert">{safe(trouble)}</p>' if trouble else ""
        return f"""<article class="choice">
<h1>A shop with {len(self._catalogue):,} products and a task for you</h1>
<p>You are asked to buy something. Search for it, choose the right options, and buy it.</p>{alert}
<form action="/start"><button class="main" name="task" value="random">Give me a task</button></form>
<form action="/start"><label for="task">Or the task with the number</label>
<input id="task" name="task" required maxlength="30" autocomplete="off"> <button>Start</button>
<p class="none">{numbers}</p></form>
<form action="/start"><button name="task" value="none">Just look around</button></form>
</article>"""


def make_app(
    catalogue: Catalogue, *, faithful: bool = True, tagger: NounTagger | None = None, remembered_pages: int = 10_000
) -> Starlette:
    """Return the shop as a web application.

    Args:
        catalogue: what is sold.
        faithful: keep the quirks of the original; see `Shop` and `reward`.
        tagger: finds nouns for the reward; `default_tagger` if None.
        remembered_pages: addresses of pages that are known at a time, some 2 kB each; a shopper is told that
            an older one is gone.
    """
    site = _Site(catalogue, faithful, tagger or default_tagger(), remembered_pages)
    return Starlette(
        routes=[
            Route("/", site.front),
            Route("/start", site.start),
            Route("/page/{name}", site.page, methods=["GET", "POST"]),
            Route("/page/{name}/worth", site.worth),
            Route("/picture", site.picture),
            Route(_STYLESHEET, site.stylesheet),
        ]
    )


def serve(app: Starlette, *, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Serve the shop until the process is interrupted.

    Args:
        app: the application.
        host: address to listen on; `127.0.0.1` lets nobody in but this machine.
        port: port to listen on; 0 takes a free one.
        announce: told the shop's address once visitors are heard.

    Raises:
        ConfigError: the port cannot be had.
    """
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ConfigError(
            f"The shop cannot listen on {host}, port {port}: {error.strerror}; choose another."
        ) from error
    with listener, suppress(KeyboardInterrupt):
        name = f"[{host}]" if ":" in host else host
        announce(f"http://{name}:{listener.getsockname()[1]}/")
        uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off")).run(sockets=[listener])


def _action(request: Request) -> str | None:
    """Return the action that is asked for, as the environment takes it; None where only the page is."""
    asked = request.query_params
    if "search" in asked:
        # A bracket would end the action.
        return f"search[{' '.join(asked['search'].replace('[', ' ').replace(']', ' ').split())}]"
    return f"click[{asked['click']}]" if "click" in asked else None


def _picture_address(product: Product, size_px: int, look: str | None) -> str:
    asked = {"product": product.id, "size": str(size_px)} | ({"look": look} if look else {})
    return f"/picture?{urlencode(asked, errors='replace')}"


def _page(title: str, body: str, *, status: int = 200, links: list[tuple[str, str]] | None = None) -> Response:
    html = document(title, f"<main>\n{body}\n</main>", stylesheet_address=_STYLESHEET, links=links or ())
    return HTMLResponse(html, status, headers=_HEADERS)


def _lost() -> Response:
    said = "<article><p>This page is not known, or no longer.</p></article>"
    return _page("Not found", said, status=404, links=[("Choose a task", "/")])


def _worth(paid: Reward, goal: Goal) -> str:
    rows = (
        ("Kind of product", f"factor {paid.type_factor:g}"),
        ("Attributes", f"{paid.attributes} of {len(goal.attributes)}: {', '.join(goal.attributes)}"),
        ("Options", f"{paid.options} of {len(goal.options)}"),
        ("Price", "within the limit" if paid.price else "over the limit"),
    )
    table = "".join(f'<tr><th scope="row">{safe(name)}</th><td>{safe(value)}</td></tr>' for name, value in rows)
    return f"""<article class="about"><h1>This purchase is worth {paid.total:.3f} of 1</h1>
<p>{safe(goal.instruction)}</p><table>{table}</table></article>"""
