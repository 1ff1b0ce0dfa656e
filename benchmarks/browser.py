"""A headless Chromium, driven through its debugging pipe, so that no further package is needed."""

import base64
import json
import os
import select
import shutil
import signal
import time
from pathlib import Path


#: Programs that are looked for.
NAMES = ("chromium", "chromium-browser", "google-chrome")
MAX_SECONDS = 120


class Browser:
    """A running Chromium with one page.

    It speaks the Chrome DevTools Protocol over file descriptors 3 and 4: JSON messages, each ended by a null byte.
    """

    def __init__(self, program: str, profile: Path):
        self.errors, self.requests = [], []
        self._number, self._rest, self._session = 0, b"", None
        reads, self._to = _high_pipe()
        self._from, writes = _high_pipe()
        options = ["--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        options += ["--disable-background-networking", "--disable-dev-shm-usage", f"--user-data-dir={profile}"]
        actions = [(os.POSIX_SPAWN_DUP2, reads, 3), (os.POSIX_SPAWN_DUP2, writes, 4)]
        actions += [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0o600) for number in (0, 1, 2)]
        self._process = os.posix_spawn(program, [program, *options, "about:blank"], os.environ, file_actions=actions)
        os.close(reads)
        os.close(writes)
        targets = self._call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self._call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def open(self, address: str, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        """Show a page, and forget errors and requests of earlier ones."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        preference = {"name": "prefers-color-scheme", "value": scheme}
        self._call("Emulation.setEmulatedMedia", features=[preference])
        self.errors.clear()
        self.requests.clear()
        self._call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete'")

    def run(self, expression: str):
        """Return the value of an expression in the page."""
        result = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + MAX_SECONDS
        while not self.run(expression):
            assert time.monotonic() < end, f"the page never had {expression}"
            time.sleep(0.05)

    def press(self, key: str, text: str = "") -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            extra = {"text": text} if text and kind == "keyDown" else {}
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code="Space" if key == " " else key, **extra)

    def point(self, selector: str, click: bool = False) -> None:
        """Move the pointer to an element, and click it if asked to."""
        box = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        x, y = self.run(f"[{box}.left + {box}.width / 2, {box}.top + {box}.height / 2]")
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased") if click else ():
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def download_to(self, folder: Path) -> None:
        """Put what is downloaded into a folder."""
        session, self._session = self._session, None
        self._call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        self._session = session

    def picture(self) -> bytes:
        """Return a screenshot as PNG."""
        return base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])

    def close(self) -> None:
        """End the browser that this object started."""
        os.close(self._to)
        os.close(self._from)
        os.kill(self._process, signal.SIGTERM)
        os.waitpid(self._process, 0)

    def _call(self, method: str, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer.get("method"), answer.get("params"))

    def _read(self) -> dict:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], MAX_SECONDS)
            assert ready, "the browser does not answer"
            part = os.read(self._from, 1 << 16)
            assert part, "the browser has ended"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)

    def _note(self, event: str | None, params: dict) -> None:
        """Keep errors of the page and what it requests."""
        if event == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"])
        elif event == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(params["args"])
        elif event == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"])
        elif event == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])


def _high_pipe() -> tuple[int, int]:
    """Return a pipe whose descriptors are not those that the browser expects, and that it does not inherit."""
    import fcntl

    ends = os.pipe()
    moved = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return moved


def find_browser() -> str | None:
    """Return the path of a browser; `None` where none is installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)
