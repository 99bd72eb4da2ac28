"""Starts a headless Chromium that leaves nothing behind: no process, no folder, not even when Python is killed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from armap.errors import ConfigError, EnvError

if TYPE_CHECKING:
    from selenium.webdriver import ChromeOptions
    from selenium.webdriver.remote.webdriver import WebDriver

_CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_CHROMEDRIVERS = ("chromedriver", "chromium.chromedriver")

_ANSWER_TIMEOUT_S = 60
"""A browser that is silent for longer counts as broken; starting one takes 1 to 7 s on a busy machine."""

_FLAGS = (
    "--headless=new",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--force-device-scale-factor=1",
    "--hide-scrollbars",
    "--mute-audio",
)

# Its standard input ends when its owner closes it or is gone, however that came about. The process group of the driver
# is the driver's and the browser's; a process of the browser that is just dying may still write into the folder.
_KEEPER = 'read -r _; kill -s KILL -- "-$0"; rm -rf -- "$1" || { sleep 1; rm -rf -- "$1"; }'


def find_browser() -> tuple[Path, Path]:
    """Return the programs Chromium (or Chrome) and chromedriver.

    Raises:
        ConfigError: one of them, or the Python package that speaks to them, is not installed.
    """
    if importlib.util.find_spec("selenium") is None:
        raise ConfigError("A browser is driven through selenium, which is not installed; type: pip install selenium")
    chromium, chromedriver = (_first_installed(names) for names in (_CHROMIUMS, _CHROMEDRIVERS))
    if chromium is None or chromedriver is None:
        missing = "Chromium" if chromium is None else "chromedriver"
        raise ConfigError(f"{missing} is not installed; on Debian type: apt-get install chromium chromium-driver")
    return chromium, chromedriver


def _first_installed(names: tuple[str, ...]) -> Path | None:
    return next((Path(found) for name in names if (found := shutil.which(name))), None)


@contextmanager
def browser_trouble_as_env_error() -> Iterator[None]:
    """Turn whatever selenium raises when a browser has died, hangs or refuses into an `EnvError` of one sentence.

    Raises:
        EnvError: the browser did not do what it was asked inside the block.
    """
    from selenium.common.exceptions import WebDriverException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except WebDriverException as error:
        said = (error.msg or type(error).__name__).partition("\n")[0]
        raise EnvError(f"the browser failed: {said}") from error
    except (HTTPError, OSError) as error:
        raise EnvError(f"the browser is gone or does not answer: {type(error).__name__}") from error


class Browser:
    """A headless Chromium with an empty profile.

    Its processes and its folder are gone after `close()`, and also when the process that started it is killed.

    Args:
        width_px: width of the visible page, in pixels.
        height_px: height of the visible page, in pixels.

    Attributes:
        driver: speaks to it; see selenium's `WebDriver`.
        folder: goes when the browser goes; free for files to show it.

    Raises:
        ConfigError: a program is missing.
        EnvError: the browser does not start.
    """

    driver: WebDriver

    def __init__(self, *, width_px: int, height_px: int) -> None:
        chromium, chromedriver = find_browser()
        self.folder = Path(tempfile.mkdtemp(prefix="armap-browser-"))
        self._chromedriver = subprocess.Popen(  # noqa: S603
            [chromedriver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self._keeper = subprocess.Popen(  # noqa: S603
            ["/bin/sh", "-c", _KEEPER, str(self._chromedriver.pid), str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self._connect(_options(chromium, self.folder / "profile"))
            # The window's size would count its frame too, and has a least value.
            page = {"width": width_px, "height": height_px, "deviceScaleFactor": 1, "mobile": False}
            self.devtools("Emulation.setDeviceMetricsOverride", **page)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the browser and remove its folder; harmless when repeated."""
        if self._keeper.returncode is None:
            self._keeper.communicate()
            self._chromedriver.communicate()

    def devtools(self, command: str, **arguments: object) -> dict[str, Any]:
        """Do a command of Chromium's DevTools protocol, such as `Page.captureScreenshot`, and return its answer.

        Raises:
            EnvError: the browser is gone, hangs or refuses.
        """
        with browser_trouble_as_env_error():
            answer = self.driver.execute("executeCdpCommand", {"cmd": command, "params": arguments})
        return cast("dict[str, Any]", answer["value"])

    def _connect(self, options: ChromeOptions) -> None:
        from selenium.webdriver import Proxy, Remote
        from selenium.webdriver.common.proxy import ProxyType
        from selenium.webdriver.remote.client_config import ClientConfig

        address = f"http://127.0.0.1:{self._port()}"
        with browser_trouble_as_env_error():
            # A proxy for the network is none for this machine.
            direct = Proxy({"proxyType": ProxyType.DIRECT})
            config = ClientConfig(remote_server_addr=address, proxy=direct, timeout=_ANSWER_TIMEOUT_S)
            self.driver = Remote(address, options=options, client_config=config)

    def _port(self) -> int:
        assert self._chromedriver.stdout is not None
        for line in self._chromedriver.stdout:
            if b"started successfully on port " in line:
                return int(line.rstrip(b".\r\n").rpartition(b" ")[2])
        raise EnvError("chromedriver does not start; type `chromedriver` to see what it says")


def _options(chromium: Path, profile: Path) -> ChromeOptions:
    from selenium.webdriver import ChromeOptions

    options = ChromeOptions()
    options.binary_location = str(chromium)
    # Chromium's own sandbox refuses to run as root.
    flags = ("--no-sandbox",) if os.geteuid() == 0 else ()
    for flag in (*_FLAGS, *flags, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    return options
