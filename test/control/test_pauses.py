"""Pauses between commands: whoever loses its turn while it sends hides none of them."""

import pytest

from qgf_ros.control.pauses import Pauses

MS = 10**6


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((0, 1), (101, 102)),
        ((0, 1), (90, 102)),  # by the times before sending it is 90 ms
        ((0, 12), (100, 104)),  # by those after it is 92 ms
        ((0, 12), (90, 102)),
    ],
    ids=["plain", "late to send", "late to look", "both"],
)
def test_fault_064_a_pause_that_may_have_been_too_long_counts(first, second):
    pauses = Pauses(95 * MS)
    for before, after in (first, second):
        pauses.sent(before * MS, after * MS, counts=True)
    assert pauses.count == 1


def test_fault_064_commands_in_time_are_no_pause_and_the_first_one_is_none_either():
    pauses = Pauses(95 * MS)
    for at in range(10**6, 10**6 + 1000, 50):
        pauses.sent(at * MS, (at + 2) * MS, counts=True)
    assert pauses.count == 0


def test_a_pause_of_which_something_else_tells_is_not_counted_and_the_next_one_begins_after_it():
    pauses = Pauses(95 * MS)
    pauses.sent(0, MS, counts=True)
    pauses.sent(500 * MS, 501 * MS, counts=False)  # a hold has said so
    pauses.sent(550 * MS, 551 * MS, counts=True)
    assert pauses.count == 0
