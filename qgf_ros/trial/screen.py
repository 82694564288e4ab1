"""What the operator sees: one large state, what to do, how far the trial is. Never which beta runs,
nor Q, nor how it goes so far: who knows what to expect sees it."""

from __future__ import annotations

from collections.abc import Callable

from rich.align import Align
from rich.console import Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.text import Text

from qgf_ros.console import console, say

STYLES = {
    "busy": "black on grey70",
    "waiting": "bold black on green3",
    "running": "bold white on red3",
    "asking": "bold black on yellow3",
}


class Terminal:
    """The panel on a terminal; lines for what is new without one."""

    def __init__(self, progress: Callable[[], tuple[int, int]]) -> None:
        """progress: number of the next episode, and how many are still to come at most."""
        self._progress = progress
        self._note = ""
        self._shown: tuple[object, ...] = ()
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Terminal:
        if console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def show(self, phase: str, state: str, line: str, keys: str, seconds: float) -> None:
        number, left = self._progress()
        title = f"episode {number}, at most {left} to go"
        shown = (phase, state, line, keys, self._note, round(seconds))
        if shown == self._shown:
            return
        if not console.is_terminal:
            if shown[:3] != self._shown[:3]:
                say(f"{title}: {state}: {line}")
        else:
            body = panel(title, phase, state, line, keys, self._note, seconds)
            self._live.update(body, refresh=True)
        self._shown = shown

    def note(self, text: str) -> None:
        """Something went otherwise than asked; stays until the next one."""
        self._note = text
        if not console.is_terminal:
            say(text)


def panel(
    title: str, phase: str, state: str, line: str, keys: str, note: str = "", seconds: float = 0.0
) -> RenderableType:
    """The whole screen. seconds: left in the episode, 0: no matter."""
    clock = f"   {seconds:.0f} s" if seconds > 0 else ""
    band = Padding(Align.center(Text(f"{state}{clock}")), (1, 2), style=STYLES[phase], expand=True)
    rows: list[RenderableType] = [band, Text(), Text(line, style="bold"), Text(keys, style="cyan")]
    if note:
        rows.append(Text(note, style="yellow"))
    return Panel(Group(*rows), title=title, padding=(1, 2))
