import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from armap.browser import Browser, find_browser
from armap.errors import ConfigError, EnvError

PAGE = "data:text/html,<title>hello</title><p>Size</p>"


@pytest.fixture
def installed():
    try:
        find_browser()
    except ConfigError as error:
        pytest.skip(str(error))


def processes_that_name(folder: Path) -> list[str]:
    """Return the command lines of all processes, those of the browser among them, that name a folder."""
    lines = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if str(folder) in line:
            lines.append(line)
    return lines


def wait_until_nothing_is_left_of(folder: Path) -> None:
    for _ in range(600):
        if not folder.exists() and not processes_that_name(folder):
            return
        time.sleep(0.1)
    pytest.fail(f"left behind: {folder.exists()=}, {processes_that_name(folder)}")


@pytest.mark.usefixtures("installed")
def test_the_page_has_the_size_that_was_asked_for():
    with Browser(width_px=321, height_px=200) as browser:
        browser.driver.get(PAGE)
        assert browser.driver.title == "hello"
        assert browser.driver.execute_script("return [innerWidth, innerHeight]") == [321, 200]


@pytest.mark.usefixtures("installed")
def test_a_closed_browser_leaves_no_process_and_no_folder():
    browser = Browser(width_px=300, height_px=200)
    assert processes_that_name(browser.folder)
    browser.close()
    browser.close()
    wait_until_nothing_is_left_of(browser.folder)
    with pytest.raises(EnvError, match="browser"):
        browser.devtools("Page.captureScreenshot")


@pytest.mark.usefixtures("installed")
def test_a_browser_whose_owner_is_killed_leaves_no_process_and_no_folder():
    program = (
        "from armap.browser import Browser as B; b = B(width_px=9, height_px=9); print(b.folder, flush=True); input()"
    )
    owner = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    folder = Path(owner.stdout.readline().strip())
    assert processes_that_name(folder)
    os.kill(owner.pid, signal.SIGKILL)
    owner.communicate()
    wait_until_nothing_is_left_of(folder)


@pytest.mark.usefixtures("installed")
def test_what_the_browser_refuses_is_an_error_in_one_line():
    with Browser(width_px=300, height_px=200) as browser, pytest.raises(EnvError) as caught:
        browser.devtools("No.such.command")
    assert "\n" not in str(caught.value)


def test_without_a_browser_the_error_says_what_to_install(tmp_path):
    program = "from armap.browser import find_browser; find_browser()"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, "PATH": str(tmp_path)}
    )
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].startswith("armap.errors.ConfigError")
    assert "install" in ran.stderr.splitlines()[-1]
