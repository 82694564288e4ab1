"""A headless Chromium to click in, over its DevTools protocol on a pipe: no port, no driver."""

import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # the pages are our own, and containers run as root
    "--disable-gpu",
    "--disable-gpu-compositing",
    "--disable-software-rasterizer",
    "--in-process-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--disable-features=Translate,OptimizationHints,MediaRouter",
    "--no-first-run",
    "--mute-audio",
    "--hide-scrollbars",
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
    "--remote-debugging-pipe",
)
PATIENCE = 60.0  # s, for any one answer; it comes in milliseconds but for a machine that is busy


def chromium() -> str | None:
    """The executable, or None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)


class Page:
    """One tab. `errors`: what the console and uncaught exceptions said; `requests`: every URL."""

    def __init__(self, to_browser: int, from_browser: int):
        self._to, self._from, self._buffer, self._number = to_browser, from_browser, b"", 0
        self._session = None
        self._events: list[dict] = []
        self.errors: list[str] = []
        self.requests: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters) -> dict:
        """The result of one command. Raises AssertionError where the browser refuses it."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        left = json.dumps(message).encode() + b"\0"
        while left:
            left = left[os.write(self._to, left) :]
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _read(self) -> dict:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], PATIENCE)
            assert ready, f"the browser said nothing for {PATIENCE} s"
            piece = os.read(self._from, 1 << 16)
            assert piece, "the browser ended"
            self._buffer += piece
        one, self._buffer = self._buffer.split(b"\0", 1)
        message = json.loads(one)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method: str | None, about: dict):
        if method == "Runtime.exceptionThrown":
            details = about["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and about["type"] in (
            "error",
            "warning",
            "assert",
        ):
            self.errors.append(str([a.get("value", a.get("description")) for a in about["args"]]))
        elif method == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            # What a newer browser thinks of the page, or of a machine too busy to scroll, is not
            # the page's error.
            if about["entry"]["source"] not in ("deprecation", "intervention"):
                self.errors.append(about["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])

    def open(self, url: str, width: int = 1200, height: int = 900, dark: bool = False):
        """Goes to `url` in a window of that size [CSS px]; narrow ones are phones with a finger."""
        self.resize(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url=url)
        # The new document's process learns of the window's size a moment after it starts.
        loaded = "location.protocol !== 'about:' && document.readyState === 'complete'"
        self.wait_for(f"{loaded} && innerWidth === {width}")

    def resize(self, width: int, height: int):
        phone = width < 600
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )
        self.send("Emulation.setTouchEmulationEnabled", enabled=phone)

    def value(self, expression: str):
        """What the expression is in the page, as plain data."""
        got = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in got, (expression, got["exceptionDetails"])
        return got["result"].get("value")

    def wait_for(self, expression: str, patience: float = PATIENCE):
        """Until the expression is true. Raises AssertionError after `patience` seconds."""
        assert self.comes_true(expression, patience), f"not after {patience} s: {expression}"

    def comes_true(self, expression: str, within: float = 1.0) -> bool:
        """Whether the expression is true within so many seconds."""
        end = time.monotonic() + within
        while not self.value(expression):
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True

    def centre(self, selector: str) -> tuple[float, float]:
        """Scrolls the element into the middle of the window -> its centre [px]."""
        box = self.value(
            f"(e => {{ e.scrollIntoView({{block: 'center', behavior: 'instant'}}); const b = e.getBoundingClientRect();"
            f" return [b.x + b.width / 2, b.y + b.height / 2]; }})(document.querySelector({json.dumps(selector)}))"
        )
        return box[0], box[1]

    def mouse(self, kind: str, x: float, y: float):
        """kind: Pressed, Moved, Released, of the left button."""
        buttons = 0 if kind == "Released" else 1
        self.send(
            "Input.dispatchMouseEvent",
            type=f"mouse{kind}",
            x=x,
            y=y,
            button="left",
            buttons=buttons,
            clickCount=1,
        )

    def click(self, selector: str, dx: float = 0, dy: float = 0):
        """Clicks so far from the middle of the element [px]."""
        x, y = self.centre(selector)
        self.mouse("Pressed", x + dx, y + dy)
        self.mouse("Released", x + dx, y + dy)

    def drag(self, selector: str, dx: float, dy: float):
        """Drags the element by so many px, in a few moves."""
        x, y = self.centre(selector)
        self.mouse("Pressed", x, y)
        for part in (0.5, 1.0):
            self.mouse("Moved", x + part * dx, y + part * dy)
        self.mouse("Released", x + dx, y + dy)

    def touch(self, selector: str, dy: float = 0, *, off: float = 0):
        """A finger comes down `off` px below the middle of the element and leaves dy px further."""
        x, y = self.centre(selector)
        steps = [y + off + dy * part for part in (0, 0.2, 0.4, 0.6, 0.8, 1)] if dy else [y + off]
        for kind, at in zip(["touchStart"] + ["touchMove"] * 5, steps):
            self.send("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": at}])
        self.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def key(self, selector: str, key: str, times: int = 1):
        """Focuses the element and presses a named key, such as ArrowRight."""
        self.value(f"document.querySelector({json.dumps(selector)}).focus()")
        codes = {
            "ArrowLeft": 37,
            "ArrowUp": 38,
            "ArrowRight": 39,
            "ArrowDown": 40,
            "Home": 36,
            "End": 35,
        }
        for _ in range(times):
            for kind in ("rawKeyDown", "keyUp"):
                self.send(
                    "Input.dispatchKeyEvent",
                    type=kind,
                    key=key,
                    code=key,
                    windowsVirtualKeyCode=codes[key],
                )


def _pipe() -> tuple[int, int]:
    """A pipe whose ends are not among the descriptors that the browser expects at 3 and 4."""
    ends = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return high


@contextlib.contextmanager
def browser():
    """A `Page` in a browser of its own, which ends with it. Its network is switched off."""
    to_read, to_write = _pipe()
    from_read, from_write = _pipe()
    with tempfile.TemporaryDirectory(prefix="qgf_browser_", ignore_cleanup_errors=True) as home:
        # The protocol is spoken on descriptors 3 and 4, which the shell puts there.
        process = subprocess.Popen(
            [
                "bash",
                "-c",
                f'exec "$@" 3<&{to_read} 4>&{from_write}',
                "bash",
                chromium(),
                *FLAGS,
                f"--user-data-dir={home}",
                "--host-resolver-rules=MAP * ~NOTFOUND",
            ],
            pass_fds=(to_read, from_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_read)
        os.close(from_write)
        try:
            page = Page(to_write, from_read)
            yield page
        finally:
            os.close(to_write)
            os.close(from_read)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()
