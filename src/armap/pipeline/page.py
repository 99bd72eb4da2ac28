"""Writes pages that need nothing but a browser: no scripts, nothing loaded, all text from records escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from xml.etree.ElementTree import Element, tostring

from armap.pipeline.charts import element


def write_page(path: Path, title: str, sections: Sequence[Element]) -> Path:
    """Write a page, replacing one that is there already at once, and return its path."""
    template = Template((files("armap.pipeline") / "page_template.html").read_text(encoding="utf-8"))
    page = template.substitute(title=_html(element("title", title)), content="\n".join(map(_html, sections)))
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(page, encoding="utf-8")
    draft.replace(path)
    return path


def terms(named: Mapping[str, str | Element]) -> Element:
    """Return names with what they mean or come to."""
    return element(
        "dl", *(part for name, value in named.items() for part in (element("dt", name), element("dd", value)))
    )


def _html(node: Element) -> str:
    return tostring(node, encoding="unicode", method="html")
