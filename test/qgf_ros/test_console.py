"""What a terminal is given.

Pinned: a topic's or a file's name that clears the screen, and with it the line that says what is wrong.
"""

import io

import pytest

from qgf_ros import console as said
from qgf_ros.errors import DataRefused, exit_codes
from qgf_ros.trial.screen import Terminal

HOSTILE = "a\x1b[2J\x1b]0;title\x07\r\x08\x9b2J\N{RIGHT-TO-LEFT OVERRIDE}b\udcff"


def refused():
    with pytest.raises(SystemExit), exit_codes():
        raise DataRefused(f"{HOSTILE}: no")


def on_the_screen():
    screen = Terminal(lambda: (1, 2))
    screen.show("NOT READY", HOSTILE, ("q quit",), 0.0)
    screen.note(HOSTILE)


@pytest.mark.parametrize(
    "say",
    [
        lambda: said.say(HOSTILE),
        lambda: said.table(HOSTILE, [HOSTILE], [[HOSTILE]]),
        refused,
        on_the_screen,
    ],
)
def test_fault_157_no_name_commands_a_terminal(monkeypatch, say):
    out = io.StringIO()
    monkeypatch.setattr("sys.stderr", out)
    monkeypatch.setattr(said.console, "file", out)
    say()
    text = out.getvalue()
    assert "a?[2J" in text and all(c.isprintable() or c == "\n" for c in text)


def test_what_is_no_command_stays(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(said.console, "file", out)
    said.say("β ≥ 0.1\n\tΩ „ü“")
    assert out.getvalue().split() == ["β", "≥", "0.1", "Ω", "„ü“"]
