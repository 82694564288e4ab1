"""Warnings stand long enough to be seen, and no longer; and every code is explained."""

from qgf_make import SECOND, START

from qgf_ros.control.notices import Notices
from qgf_ros.control.reasons import Problem

MS = SECOND // 1000
A, B = Problem("OOD", "x", "a"), Problem("OVERRUN", "", "b")


def test_a_notice_stands_for_a_second_after_its_last_cause():
    notices = Notices()
    notices.note(START, A)
    notices.note(START + 500 * MS, A)
    assert notices.current(START + 1500 * MS) == (A,)
    assert notices.current(START + 1501 * MS) == ()


def test_the_order_is_that_of_the_first_and_the_detail_that_of_the_last_cause():
    notices = Notices()
    notices.note(START, A)
    notices.note(START, B)
    newer = Problem("OOD", "x", "again")
    notices.note(START + MS, newer)
    assert notices.current(START + MS) == (newer, B)
    notices.clear()
    assert notices.current(START + MS) == ()


def test_fault_020_what_was_noted_before_the_clock_went_back_does_not_stay():
    notices = Notices()
    notices.note(START, A)
    assert notices.current(START - 500 * SECOND) == ()
