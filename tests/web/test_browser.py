"""The pages in a real browser. Skipped where there is no Chromium (`apt install chromium`)."""

import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from proxy.exchange import Side
from tests.cli.recording import EVENTS, Recording
from tests.web.conftest import Served
from tests.web.test_pages import cells, ids
from tests.web.test_safety import SCRIPT, record_scripts

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--disable-dev-shm-usage", "--no-first-run", "--virtual-time-budget=10000", "--dump-dom"),
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")


def dom_of(url: str, profile: Path) -> str:
    """The page as it is after ten seconds of the page's own time, as HTML."""
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def test_rows_appear_and_change_while_the_page_is_open(recorded: Recording, site: Served, tmp_path: Path) -> None:
    exchange = recorded.begin_stream()
    recorded.take_in()
    asked, stored = threading.Event(), threading.Event()

    def wait_at_the_first_refresh(path: str) -> None:
        if path == "/rows":
            asked.set()
            stored.wait(60)

    site.on_answer = wait_at_the_first_refresh
    found: list[str] = []
    browser = threading.Thread(target=lambda: found.append(dom_of(site.url + "/", tmp_path / "profile")))
    browser.start()
    assert asked.wait(60)
    recorded.data(exchange, Side.UPSTREAM, *EVENTS)
    recorded.close(exchange)
    recorded.chat()
    recorded.take_in()
    stored.set()
    browser.join(120)
    (dom,) = found
    assert ids(dom) == [2, 1]
    assert cells(dom, 1)["outcome"] == "completed"
    assert re.search(r"<output>live</output>", dom)


def test_scripts_in_the_traffic_do_not_run(recorded: Recording, site: Served, tmp_path: Path) -> None:
    exchange = record_scripts(recorded)
    for target in ("/", f"/exchanges/{exchange}"):
        dom = dom_of(site.url + target, tmp_path / "profile")
        assert "<title>owned" not in dom
        assert SCRIPT.replace("<", "&lt;").replace(">", "&gt;") in dom
        assert dom.count("<script") == dom.count('<script src="/static/live.js"')
