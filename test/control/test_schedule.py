"""Which action is executed when.

Pinned: an index before the chunk's start, which Python would count from the end.
"""

import numpy as np
import pytest
from qgf_make import SECOND, START

from qgf_ros.control.chunk import Chunk
from qgf_ros.control.schedule import Schedule

T = SECOND // 20
SPAN = np.array([4.0, 2.0])
ROWS = np.arange(10.0).reshape(5, 2)


def schedule(actions=ROWS, start=START, **options):
    made = Schedule(T, SPAN, **options)
    made.adopt(Chunk(start, actions, 1, 1), start, None)
    return made


def test_fault_020_before_its_start_a_chunk_has_no_action():
    """A clock that goes back leads there: neither the last action nor any other belongs to it."""
    made = schedule()
    for back in (1, 2, 5, 20):
        now = START - back * T
        assert not made.covers(now)
        assert made.take(now) is None and made.committed(now, 3) is None
    assert not made.begun
    assert made.take(START) is not None


@pytest.mark.parametrize("late", [0, 1, 4])
def test_fault_051_an_action_is_executed_where_the_clock_says(late):
    made = schedule()
    np.testing.assert_array_equal(made.take(START + late * T), ROWS[late])
    assert made.begun


def test_fault_051_after_its_end_a_chunk_has_no_action_and_the_last_one_is_repeated():
    made = schedule()
    made.take(START + 4 * T)
    assert not made.covers(START + 5 * T) and made.take(START + 5 * T) is None
    np.testing.assert_array_equal(made.repeat(), ROWS[4])


def test_fault_051_without_a_chunk_there_is_nothing_to_execute():
    made = Schedule(T, SPAN)
    assert not made.covers(START) and made.take(START) is None and made.repeat() is None
    assert made.exhausted(START, 5) and made.committed(START, 3) is None
    assert np.isnan(made.share_executed())


def test_fault_051_the_next_chunk_is_due_when_its_steps_are_executed():
    made = schedule()
    assert [made.exhausted(START + k * T, 3) for k in range(5)] == [False] * 3 + [True] * 2


def test_fault_051_what_is_committed_is_what_comes_next():
    made = schedule()
    np.testing.assert_array_equal(made.committed(START + T, 2), ROWS[1:3])
    np.testing.assert_array_equal(made.committed(START + 4 * T, 9), ROWS[4:])
    assert made.committed(START, 0) is None


def test_fault_051_a_late_chunk_is_entered_where_its_clock_says_and_tells_the_seam():
    made = schedule()
    made.take(START + 2 * T)
    new = ROWS + 1.0
    taken, jump = made.adopt(Chunk(START + T, new, 1, 2), START + 3 * T, None)
    np.testing.assert_array_equal(taken.actions, new)
    np.testing.assert_array_equal(made.take(START + 3 * T), new[2])
    # The old chunk would have gone on with its row 3; the new one has its row 2 there.
    assert jump == pytest.approx(np.max(np.abs(new[2] - ROWS[3]) / SPAN))


def test_fault_051_the_seam_is_told_from_the_last_action_where_the_old_chunk_is_over():
    made = schedule()
    made.take(START + 4 * T)
    _, jump = made.adopt(Chunk(START + 6 * T, ROWS, 1, 2), START + 6 * T, None)
    assert jump == pytest.approx(np.max(np.abs(ROWS[0] - ROWS[4]) / SPAN))


def test_fault_051_the_first_chunk_has_no_seam():
    made = Schedule(T, SPAN)
    _, jump = made.adopt(Chunk(START, ROWS, 1, 1), START, None)
    assert np.isnan(jump)


def test_fault_051_a_chunk_that_is_over_before_it_comes_has_no_seam_and_no_action():
    made = schedule()
    _, jump = made.adopt(Chunk(START, ROWS, 1, 2), START + 9 * T, None)
    assert np.isnan(jump) and made.take(START + 9 * T) is None


def test_fault_051_committed_actions_are_executed_as_they_were_promised():
    made = schedule()
    promised = made.committed(START + T, 2)
    new = np.full((5, 2), 9.0)
    taken, jump = made.adopt(Chunk(START + T, new, 1, 2), START + T, promised)
    np.testing.assert_array_equal(taken.actions[:2], promised)
    np.testing.assert_array_equal(taken.actions[2:], new[2:])
    # The seam is where the promise ends, against what the old chunk goes on with there.
    assert jump == pytest.approx(np.max(np.abs(9.0 - ROWS[3]) / SPAN))


def test_fault_051_after_an_exhausted_promise_the_seam_is_against_its_last_action():
    made = schedule()
    promised = made.committed(START + 3 * T, 5)
    assert len(promised) == 2
    new = np.full((5, 2), 9.0)
    _, jump = made.adopt(Chunk(START + 3 * T, new, 1, 2), START + 3 * T, promised)
    assert jump == pytest.approx(np.max(np.abs(9.0 - ROWS[4]) / SPAN))


def test_fault_051_a_blend_leads_from_the_old_chunk_to_the_new_one():
    made = schedule(blend_steps=1)
    new = ROWS + 4.0
    taken, _ = made.adopt(Chunk(START + T, new, 1, 2), START + T, None)
    np.testing.assert_allclose(taken.actions[0], (new[0] + ROWS[1]) / 2)
    np.testing.assert_array_equal(taken.actions[1:], new[1:])


def test_fault_051_the_share_executed_counts_anew():
    made = schedule()
    for k in range(3):
        made.take(START + k * T)
    assert made.share_executed() == 3 / 5
    assert made.share_executed() == 0.0


def test_what_is_adopted_is_a_copy():
    mine = ROWS.copy()
    made = schedule(mine)
    mine[:] = np.nan
    assert np.isfinite(made.take(START)).all()
