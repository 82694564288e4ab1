"""What the operator sees: one large state, what to do, how far the trial is. Never which beta runs,
nor Q, nor how it goes so far: who knows what to expect sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.align import Align
from rich.console import Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from qgf_ros.console import console, say
from qgf_ros.errors import printable

MOVES, ASKS, WAITS = "bold white on red3", "bold black on yellow3", "bold black on green3"
STYLES = {
    "YOUR TURN": WAITS,
    "ROBOT MOVES": MOVES,
    "ROBOT HOLDS": MOVES,
    "HOW DID IT GO?": ASKS,
    "NOT READY": ASKS,
    "FAULT": ASKS,
}
OTHER = "black on grey70"


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

    def show(self, state: str, line: str, keys: Sequence[str], seconds: float) -> None:
        line = printable(line)
        number, left = self._progress()
        title = f"episode {number}, at most {left} to go"
        shown = (state, line, keys, self._note, round(seconds))
        if shown == self._shown:
            return
        if console.is_terminal:
            self._live.update(panel(title, state, line, keys, self._note, seconds), refresh=True)
        elif shown[:2] != self._shown[:2]:
            say(f"{title}: {state}: {line}")
        self._shown = shown

    def note(self, text: str) -> None:
        """Something went otherwise than asked; stays until the next one."""
        self._note = text = printable(text)
        if not console.is_terminal:
            say(text)


def panel(
    title: str, state: str, line: str, keys: Sequence[str], note: str = "", seconds: float = 0.0
) -> RenderableType:
    """The whole screen; one key a line."""
    clock = f"   {seconds:.0f} s" if seconds > 0 else ""
    style = STYLES.get(state, OTHER)
    band = Padding(Align.center(Text(f"{state}{clock}")), (1, 2), style=style, expand=True)
    table = Table.grid(padding=(0, 2))
    for key, _, what in (k.partition(" ") for k in keys):
        table.add_row(Text(key, style="bold reverse"), Text(what))
    rows: list[RenderableType] = [band, Text(), Text(line, style="bold"), Text(), table]
    rows += [Text(), Text(note, style="dim")]
    return Panel(Group(*rows), title=title, padding=(1, 2))
