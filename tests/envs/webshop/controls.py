"""Reads a page of the shop as a browser does."""

from html.parser import HTMLParser
from typing import NamedTuple
from urllib.parse import urlencode

VOID = {"meta", "link", "img", "input", "br"}
BLOCKS = {"p", "h1", "h2", "li", "legend", "div", "form", "label", "button", "a", "span", "title", "fieldset", "nav"}


class Control(NamedTuple):
    method: str
    address: str
    """Relative to the page; for the search bar, without the words."""
    pressed: bool


class ReadPage(HTMLParser):
    """Tags, controls by target, and texts of a page; refuses tags that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.controls: list[tuple[str, Control]] = []
        self.links: dict[str, str] = {}
        self.texts: list[str] = []
        self._open: list[str] = []
        self._form: dict[str, str | None] = {}
        self._link = ""
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = dict(attrs)
        self.tags.append((tag, facts))
        if tag == "form":
            self._form = facts
        if tag == "a":
            self._link = facts["href"] or ""
        target = facts.get("data-click")
        if target is not None:
            self.controls.append((target, self._control(tag, facts)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "a":
            self._link = ""

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data)
            if self._link:
                self.links[data] = self._link

    def _control(self, tag: str, facts: dict[str, str | None]) -> Control:
        if tag == "a":
            return Control("GET", facts["href"] or "", False)
        assert tag == "button"
        assert "disabled" not in facts
        assert facts.get("type", "submit") == "submit"
        name = facts.get("name")
        address = f"?{urlencode({name: facts['value']})}" if name else self._form.get("action") or ""
        return Control((self._form.get("method") or "get").upper(), address, facts.get("aria-pressed") == "true")

    @property
    def by_target(self) -> dict[str, Control]:
        return dict(self.controls)
