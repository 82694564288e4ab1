"""Single keys of a real pseudo-terminal.

Pinned: a terminal that is left without echo; a lost terminal that looks like an operator who waits.
"""

import os
import pty
import sys
import termios

import pytest

from qgf_ros.trial.keys import KEYS, Keys


@pytest.fixture
def terminal(monkeypatch):
    """The other end, where an operator types."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "r") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield ours
    try:
        os.close(ours)
    except OSError:
        pass  # the test closed it


def flags():
    return termios.tcgetattr(sys.stdin.fileno())[3]


def test_each_key_counts_at_once(terminal):
    keys = Keys()
    with keys.raw():
        assert not flags() & (termios.ECHO | termios.ICANON)
        for key, word in KEYS.items():
            if key != "\r":  # the terminal makes a newline of it
                os.write(terminal, key.encode())
                assert keys.pressed(5.0) == [word]
        os.write(terminal, b"S")
        assert keys.pressed(5.0) == ["success"]


def test_keys_that_are_no_words_say_nothing(terminal):
    keys = Keys()
    with keys.raw():
        for typed in (b"x", b"\x1b[A", b"\x1bs", "ä".encode()):
            os.write(terminal, typed)
            assert keys.pressed(5.0) == []
        assert keys.pressed(0.0) == [] and not keys.lost


def test_what_was_typed_before_the_question_is_no_answer(terminal):
    keys = Keys()
    with keys.raw():
        os.write(terminal, b"s")
        keys.forget()
        os.write(terminal, b"f")
        assert keys.pressed(5.0) == ["failure"]


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, OSError, SystemExit])
def test_the_terminal_is_given_back_as_it_was(terminal, error):
    before = flags()
    try:
        with Keys().raw():
            assert flags() != before
            if error is not None:
                raise error
    except (KeyboardInterrupt, OSError, SystemExit):
        pass
    assert flags() == before


def test_a_lost_terminal_is_noticed(terminal):
    keys = Keys()
    with keys.raw():
        os.close(terminal)
        assert keys.pressed(5.0) == [] and keys.lost


def test_without_a_terminal_there_are_no_keys(monkeypatch):
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        keys = Keys()
        with keys.raw():
            assert not keys.there and keys.pressed(0.0) == [] and not keys.lost
