"""A headless Chromium, driven through a pipe with its DevTools protocol; nothing but the browser is needed."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_chromium() -> str | None:
    """Path of a browser; None when there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One window with one page; every exception and console error of the page is kept in `errors`."""

    def __init__(self, profile: Path, *, width: int = 1366, height: int = 900) -> None:
        to_browser, self._in = os.pipe()
        self._out, from_browser = os.pipe()
        # The browser reads commands from descriptor 3 and answers on 4.
        ends = " ".join((f"exec 3<&{to_browser} 4>&{from_browser};", 'exec "$0" "$@"'))
        self._process = subprocess.Popen(
            [
                "bash", "-c", ends, find_chromium() or "chromium", "--headless=new", "--no-sandbox", "--disable-gpu",
                "--hide-scrollbars", "--no-first-run", "--disable-extensions", "--disable-background-networking",
                "--disable-dev-shm-usage", "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank",
            ],
            pass_fds=(to_browser, from_browser), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_browser)
        os.close(from_browser)
        self._buffer, self._count, self._session = b"", 0, ""
        self.errors: list[str] = []
        self.requests: list[str] = []
        page = next(t for t in self._pages() if t["type"] == "page")
        self._session = self.send("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.resize(width, height)

    def _pages(self) -> list[dict[str, Any]]:
        for _ in range(50):
            found: list[dict[str, Any]] = self.send("Target.getTargets")["targetInfos"]
            if any(t["type"] == "page" for t in found):
                return found
            time.sleep(0.1)
        raise TimeoutError("the browser has no page")

    def send(self, method: str, *, timeout_s: float = 30.0, **params: Any) -> dict[str, Any]:
        """A command and its answer."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._in, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + timeout_s
        while True:
            answer = self._receive(end)
            if answer.get("id") == self._count:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _receive(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._out], [], [], max(end - time.monotonic(), 0))
            part = os.read(self._out, 1 << 20) if ready else b""
            if not part:
                raise TimeoutError("the browser does not answer")
            self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        method, params = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(json.dumps(params["args"])[:500])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(json.dumps(params["entry"])[:500])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"][:200])
        return message

    def resize(self, width: int, height: int) -> None:
        """Size of the window [pixels]."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )  # fmt: skip

    def open(self, path: Path) -> None:
        """Open a page and wait until it says that it is ready."""
        self.send("Page.navigate", url=path.resolve().as_uri())
        for _ in range(150):
            if self.run("document.body && document.body.dataset.ready") == "yes":
                self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
                return
            time.sleep(0.1)
        raise TimeoutError(f"the page is not ready: {self.errors}")

    def run(self, script: str) -> Any:
        """Value of an expression in the page; promises are awaited."""
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def settle(self) -> None:
        """Let the page draw."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """A mouse event at a place of the window [pixels]."""
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def screenshot(self, path: Path, *, whole: bool = False) -> Path:
        """A picture of the window, or of the whole page."""
        found = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))
        return path

    def print_pdf(self, path: Path) -> Path:
        """The page on paper."""
        found = self.send("Page.printToPDF", printBackground=True, preferCSSPageSize=True)
        path.write_bytes(base64.b64decode(found["data"]))
        return path

    def close(self) -> None:
        """End the browser."""
        try:
            self.send("Browser.close", timeout_s=5.0)
            self._process.wait(10)
        except (TimeoutError, OSError, AssertionError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        finally:
            os.close(self._in)
            os.close(self._out)
