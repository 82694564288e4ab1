"""`qgf watch`."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from qgf_ros.cli import Options
from qgf_ros.errors import CriterionNotMet, UsageError
from qgf_ros.signals import Flag

REFRESH = 0.25  # s, of the panel
LINE_EVERY = 1.0  # s, of lines
PATIENCE = 5.0  # s in which everything has been heard, with --once
PIECE = 0.1  # s


@dataclass(frozen=True)
class Watch(Options):
    """Watch a running node: state, what is wrong and the fix, beta, Q, latency, the gate.

    It only listens. A terminal shows a panel, which Ctrl-C ends; where there is none, a line per
    second. With --json a document per line. --once says it once, and the exit code is 0 if the node
    is in RUN, 8 if it is in another state, 2 if it is not heard within 5 s.
    """

    node: str = "/qgf"
    """Name of the node, with its namespace; its gate is the qgf_gate beside it."""
    once: bool = False
    """One picture, and the end."""

    def run(self) -> Mapping[str, Any] | None:
        from qgf_ros.watch.heard import Heard

        try:
            from qgf_ros.ros.watch import Listener
        except ModuleNotFoundError as error:
            raise UsageError(
                f"{error.name} is not there: source ROS 2 and the colcon build (`make build` does both)"
            ) from None
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # of a foreign locale
        heard = Heard(self.node if self.node.startswith("/") else f"/{self.node}")
        with _stopped_by_signals() as stop, Listener(heard) as listener:
            if self.once:
                return self._once(listener, stop)
            try:
                if self.json or not _draws():
                    self._lines(listener, stop)
                else:
                    self._panel(listener, stop)
            except BrokenPipeError:  # as of `qgf watch | head`: who read has read enough
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return None

    def _once(self, listener: Any, stop: Flag) -> Mapping[str, Any]:
        heard, until = listener.heard, time.monotonic() + PATIENCE
        while time.monotonic() < until and not stop.is_set():
            listener.listen(time.monotonic() + PIECE, stop)
            asked = heard.beta_asked == heard.beta_asked  # not NaN
            if heard.node.said is not None and asked and not heard.waits_for(time.monotonic()):
                break
        if stop.is_set():
            raise KeyboardInterrupt
        now = time.monotonic()
        document = heard.document(now)
        if not self.json:
            self._show(heard, now)
        if heard.node.life(now) in ("never", "gone"):
            waits = ", ".join(heard.waits_for(now))
            raise UsageError(
                f"{heard.node.name} was not heard for {PATIENCE:g} s: waits for {waits}; start the "
                "node, or give its name with --node, and look at ROS_DOMAIN_ID",
                document,
            )
        if heard.node.state != "RUN":
            raise CriterionNotMet(
                f"{heard.node.name} is in {heard.node.state}, not in RUN", document
            )
        return document

    def _show(self, heard: Any, now: float) -> None:
        from rich.console import Console, Group

        from qgf_ros.watch.line import line
        from qgf_ros.watch.panel import panel

        if not _draws():
            print(line(heard, now))
            return
        console = Console(highlight=False, markup=False)
        console.print(Group(*panel(heard, now, console.width, console.height - 1)))

    def _lines(self, listener: Any, stop: Flag) -> None:
        from qgf_ros.console import plain
        from qgf_ros.watch.line import line

        due = time.monotonic() + LINE_EVERY
        while not stop.is_set():
            listener.listen(due, stop)
            if stop.is_set():
                return
            now = time.monotonic()
            if self.json:
                said = json.dumps(plain(listener.heard.document(now)), allow_nan=False)
            else:
                said = f"{time.strftime('%H:%M:%S')} {line(listener.heard, now)}"
            print(said, flush=True)
            due = max(due + LINE_EVERY, now)

    def _panel(self, listener: Any, stop: Flag) -> None:
        from rich.console import Console, Group
        from rich.live import Live

        from qgf_ros.watch.line import line
        from qgf_ros.watch.panel import panel

        heard, console = listener.heard, Console(highlight=False, markup=False)
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while not stop.is_set():
                now = time.monotonic()
                picture = panel(heard, now, console.width, console.height)
                live.update(Group(*picture), refresh=True)
                listener.listen(now + REFRESH, stop)
        print(line(heard, time.monotonic()))  # the panel leaves nothing on the terminal


def _draws() -> bool:
    """Whether stdout is a terminal that can show the panel."""
    from rich.console import Console

    console = Console()
    plain = console.is_dumb_terminal or console.options.ascii_only
    return sys.stdout.isatty() and not plain


@contextmanager
def _stopped_by_signals() -> Iterator[Flag]:
    """SIGINT and SIGTERM end the work, and leave the terminal as it was."""
    stop = Flag()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, stop.set) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)
