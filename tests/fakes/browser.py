"""A headless Chromium, driven by the DevTools protocol over a pipe."""

import base64
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--window-size=1800,1200", "--remote-debugging-pipe",
)  # fmt: skip
TIMEOUT_S = 60
# The innermost visible element with exactly this text.
FIND = """
(text) => [...document.querySelectorAll('body *')].filter(
  (element) => element.innerText && element.innerText.trim() === text
).pop()
"""


class Page:
    """A tab. `wait` and `click` look at the text that a person sees."""

    def __init__(self, commands: int, replies: int) -> None:
        self._commands, self._replies = commands, replies
        self._rest = b""
        self._number = 0
        self._session = ""
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        attached = self._send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self._send("Page.enable")

    def open(self, url: str) -> None:
        self._send("Page.navigate", url=url)

    def text(self) -> str:
        shown = self._evaluate("document.body ? document.body.innerText : ''")
        return str(shown).replace("\xa0", " ")

    def wait(self, *texts: str) -> None:
        """Wait until the page shows all texts. Raises TimeoutError with what it shows instead."""
        deadline = time.monotonic() + TIMEOUT_S
        while missing := [text for text in texts if text not in self.text()]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the page does not show {missing}, but:\n{self.text()}")
            time.sleep(0.2)

    def click(self, text: str) -> None:
        """Click the element with this text. Raises TimeoutError if none appears."""
        self.wait(text)
        clicked = f"((element) => element && (element.click(), true))(({FIND})({json.dumps(text)}))"
        deadline = time.monotonic() + TIMEOUT_S
        while not self._evaluate(clicked):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no element has the text {text!r}, the page is:\n{self.text()}")
            time.sleep(0.2)

    def save(self, path: Path) -> None:
        """Write a picture of the page, once it looks the same as a second before."""
        before, shot = None, self._picture()
        deadline = time.monotonic() + TIMEOUT_S
        while shot != before and time.monotonic() < deadline:
            time.sleep(1.0)
            before, shot = shot, self._picture()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(shot))

    def _picture(self) -> str:
        return str(self._send("Page.captureScreenshot", format="png")["data"])

    def close(self) -> None:
        """End the browser with all of its processes."""
        self._send("Browser.close")

    def _evaluate(self, expression: str) -> Any:
        reply = self._send("Runtime.evaluate", expression=expression, returnByValue=True)
        return reply["result"].get("value")

    def _send(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (reply := self._receive()).get("id") != self._number:
            pass  # an event
        if "error" in reply:
            raise RuntimeError(f"{method}: {reply['error']}")
        result: dict[str, Any] = reply["result"]
        return result

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not select.select([self._replies], [], [], TIMEOUT_S)[0]:
                raise TimeoutError("the browser does not answer")
            received = os.read(self._replies, 1 << 16)
            if not received:
                raise RuntimeError("the browser ended")
            self._rest += received
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message


@contextmanager
def opened(profile: Path) -> Iterator[Page]:
    """A page of a new Chromium, which reads commands from descriptor 3 and replies on 4."""
    to_browser, commands = os.pipe()
    replies, from_browser = os.pipe()
    browser = subprocess.Popen(
        ["bash", "-c", f'exec "$@" 3<&{to_browser} 4>&{from_browser}', "bash", "chromium", *FLAGS,
         f"--user-data-dir={profile}"],
        pass_fds=(to_browser, from_browser),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(to_browser)
    os.close(from_browser)
    try:
        page = Page(commands, replies)
        yield page
        page.close()
        browser.wait(TIMEOUT_S)
    finally:
        browser.kill()
        browser.wait()
        os.close(commands)
        os.close(replies)
