"""Pages as a shopper sees them: screenshots of their HTML in a headless Chromium."""

from __future__ import annotations

import base64
from importlib import resources
from pathlib import Path
from typing import ClassVar

from armap.browser import Browser, browser_trouble_as_env_error
from armap.envs.webshop.environment import WebShop
from armap.envs.webshop.html import SCREEN_HEIGHT_PX, SCREEN_WIDTH_PX, as_html
from armap.envs.webshop.index import Catalogue
from armap.envs.webshop.pages import Page
from armap.envs.webshop.painting import drawn
from armap.envs.webshop.products import Product
from armap.errors import EnvError
from armap.images import ImageFolder


class Screenshots:
    """Takes pictures of pages, one after another, with one browser.

    The browser is started by the first picture, and a broken one is replaced by the next. Equal pages give equal
    pictures on one machine; fonts and browsers differ between machines.

    Raises:
        ConfigError: there is no browser; raised by `shoot`.
    """

    def __init__(self) -> None:
        self._browser: Browser | None = None
        self._style = _data_address("text/css", resources.files(__package__).joinpath("shop.css").read_bytes())

    def __enter__(self) -> Screenshots:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def shoot(self, page: Page) -> bytes:
        """Return the page as a PNG file, `SCREEN_WIDTH_PX` wide and `SCREEN_HEIGHT_PX` high.

        Raises:
            ConfigError: there is no browser.
            EnvError: the browser broke; the next call starts another.
        """
        if self._browser is None:
            self._browser = Browser(width_px=SCREEN_WIDTH_PX, height_px=SCREEN_HEIGHT_PX)
        try:
            return self._shoot(self._browser, page)
        except EnvError:
            self.close()
            raise

    def close(self) -> None:
        """End the browser; harmless when repeated."""
        if self._browser is not None:
            self._browser.close()
            self._browser = None

    def _shoot(self, browser: Browser, page: Page) -> bytes:
        file = browser.folder / "page.html"
        html = as_html(page, picture_address=_picture_address, stylesheet_address=self._style)
        file.write_text(html, "utf-8")
        with browser_trouble_as_env_error():
            browser.driver.get(file.as_uri())
        return base64.b64decode(browser.devtools("Page.captureScreenshot", format="png")["data"])


class PhotographedWebShop(WebShop):
    """A WebShop whose pictures are screenshots.

    Args:
        catalogue: see `WebShop`.
        images: where the pictures go.
        suggest: see `WebShop`.
    """

    inline: ClassVar[bool] = False
    """A browser can hang."""

    def __init__(self, catalogue: Catalogue | Path | None, *, images: ImageFolder, suggest: bool = False) -> None:
        self._screenshots = Screenshots()
        super().__init__(catalogue, suggest=suggest, images=images, painter=self._screenshots.shoot)

    def close(self) -> None:
        """Close the browser."""
        self._screenshots.close()


def _picture_address(product: Product, size_px: int, look: str | None) -> str:
    return _data_address("image/png", drawn(product, size_px, look))


def _data_address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
