"""Browser: a headless Chromium driven over WebDriver, the W3C's protocol: what a person sees, types and clicks."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
# The key of an element's reference, by the protocol.
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """One window.

    Args:
        address: of the session.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def open(self, url: str) -> None:
        """Goes there, and waits until it is loaded."""
        ask(f"{self.address}/url", {"url": url})

    def run(self, script: str, *arguments: object) -> Any:
        """What the body of a function gives."""
        return ask(f"{self.address}/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, script: str, seconds: float = 30.0) -> None:
        """Until a function's body gives true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.05)

    def click(self, css: str) -> None:
        """Clicks on the first such element, where a person could."""
        ask(f"{self.address}/element/{self._find(css)}/click", {})

    def type(self, css: str, text: str) -> None:
        """Types in place of what stands there."""
        found = self._find(css)
        ask(f"{self.address}/element/{found}/clear", {})
        ask(f"{self.address}/element/{found}/value", {"text": text})

    def press(self, keys: str) -> None:
        """Presses keys one after the other, wherever the focus is."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        ask(f"{self.address}/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def resize(self, width: int, height: int) -> None:
        """Of the page, as a device of this size shows it."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        ask(f"{self.address}/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics})

    def screenshot(self, path: Path) -> None:
        """What is seen, as PNG."""
        path.write_bytes(base64.b64decode(ask(f"{self.address}/screenshot")))

    def _find(self, css: str) -> str:
        found: str = ask(f"{self.address}/element", {"using": "css selector", "value": css})[ELEMENT]
        return found


def ask(address: str, body: object | None = None, method: str | None = None) -> Any:
    """The value that the driver answers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"content-type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(json.load(error)["value"]["message"]) from error


@contextmanager
def browsing(profile: Path) -> Iterator[Browser]:
    """A window whose every request to another host fails."""
    assert CHROMIUM is not None
    assert DRIVER is not None
    driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        assert driver.stdout is not None
        port = next(found[1] for line in driver.stdout if (found := re.search(r"on port (\d+)\.", line)))
        options = {
            "binary": CHROMIUM,
            "args": [
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--force-prefers-reduced-motion",  # no smooth scrolling under a click
                "--disable-background-networking",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                f"--user-data-dir={profile}",
            ],
        }
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        session = f"http://127.0.0.1:{port}/session"
        session += "/" + ask(session, wanted)["sessionId"]
        try:
            yield Browser(session)
        finally:
            ask(session, method="DELETE")
    finally:
        driver.terminate()
        driver.wait(timeout=20)
