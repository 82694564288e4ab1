"""What stops `qgf_gate` itself: an emergency stop that it hears, and something that goes wrong in it.

Pinned: a node that missed the press and goes on; one that begins a new epoch while it is pressed; a
flood of errors that brakes harder than the contract says, or for ever.
"""

import pytest
from qgf_arbiter import HUMAN, NODE, Scene, T, one
from qgf_make import SECOND, velocity_dict

from qgf_ros.control.arbiter import INTERRUPTED
from qgf_ros.control.reasons import Problem
from qgf_ros.control.supervisor import State

STOP = Problem("ESTOP", "", "it is pressed")
BUG = Problem("CALLBACK", "", "a bug")


def slow():
    """0.5 a period; driven to 2."""
    scene = Scene(velocity_dict(rate=10.0))
    for _ in range(4):
        last = scene.say(NODE, 2.0)
        scene.wait(T)
    assert last == pytest.approx(2.0)
    return scene


def press(scene):
    output = scene.arbiter.emergency_stop(STOP, scene.now)
    return None if output is None else one(output)


def test_fault_130_an_emergency_stop_brakes_at_once_whatever_the_owner_wants():
    scene, sent = slow(), []
    sent.append(press(scene))
    assert scene.arbiter.state is State.FAULT and scene.arbiter.reason.code == "ESTOP"
    while not scene.arbiter.gate.silent:
        assert scene.refused(NODE, 2.0) == "ESTOP"
        scene.wait(T)
        sent.append(scene.watch())
    assert sent[:5] == pytest.approx([1.5, 1.0, 0.5, 0.0, 0.0])
    assert scene.arbiter.state is State.FAULT


def test_fault_130_its_release_is_no_permission_only_a_new_epoch_is():
    scene = slow()
    press(scene)
    scene.wait(T)
    scene.arbiter.release()
    assert scene.arbiter.state is State.HOLD and scene.arbiter.reason.code == "ESTOP"
    assert scene.refused(NODE, 2.0) == "EPOCH", "the epoch that it was pressed in is over"
    assert scene.say(NODE, 2.0, epoch=2) is not None
    assert scene.arbiter.state is State.RUN and scene.arbiter.reason is None


def test_fault_130_an_epoch_that_begins_while_it_is_pressed_is_over_too():
    scene = slow()
    press(scene)
    for epoch in (2, 3):
        scene.wait(T)
        assert scene.refused(NODE, 2.0, epoch) == "ESTOP"
    scene.arbiter.release()
    assert scene.refused(NODE, 2.0, epoch=3) == "EPOCH"
    assert scene.say(NODE, 2.0, epoch=4) is not None


def test_fault_130_it_stops_every_owner_and_a_process_that_began_anew_is_heard():
    scene = slow()
    scene.say(HUMAN, 1.0)
    press(scene)
    assert scene.refused(HUMAN, 1.0) == "ESTOP"
    scene.arbiter.release()
    assert scene.refused(HUMAN, 1.0) == "EPOCH"
    scene.wait(3 * T)
    scene.sequence[NODE] = 0  # restarted: its numbers begin again
    assert scene.say(NODE, 1.0, epoch=0) is not None


def test_fault_130_pressed_before_anything_moved_it_lets_nothing_begin():
    scene = Scene()
    assert press(scene) is None
    assert scene.refused(NODE, 1.0) == "ESTOP"
    scene.arbiter.release()
    assert scene.refused(NODE, 1.0) == "EPOCH"
    assert scene.say(NODE, 1.0, epoch=2) == 1.0


def test_fault_130_pressed_again_and_again_it_brakes_no_harder():
    scene = slow()
    sent = [press(scene)]
    for _ in range(50):
        scene.wait(1_000_000)
        sent += [press(scene), scene.watch()]
    sent = [value for value in sent if value is not None]
    assert sent == pytest.approx([1.5, 1.0]), "a period each"


def test_fault_127_what_goes_wrong_here_is_a_hold_and_then_it_goes_on():
    scene = slow()
    assert one(scene.arbiter.interrupt(BUG, scene.now)) == pytest.approx(1.5)
    assert scene.arbiter.state is State.HOLD and scene.arbiter.reason is BUG
    waited = 0
    while waited < INTERRUPTED * SECOND - T:
        scene.wait(T)
        waited += T
        assert scene.refused(NODE, 2.0) == "CALLBACK"
        scene.watch()
    scene.wait(T)
    assert scene.say(NODE, 2.0) is not None
    assert scene.arbiter.state is State.RUN


def test_fault_127_a_flood_of_errors_holds_and_brakes_no_harder():
    scene, sent = slow(), []
    for _ in range(99):
        output = scene.arbiter.interrupt(BUG, scene.now)
        sent += [] if output is None else [one(output)]
        scene.wait(1_000_000)
        value = scene.watch()
        sent += [] if value is None else [value]
    assert sent == pytest.approx([1.5, 1.0]), "less than a tenth of a second is two periods"


def test_fault_127_an_error_while_nothing_moves_is_said_and_forgotten():
    scene = Scene()
    assert scene.arbiter.interrupt(BUG, scene.now) is None
    assert scene.arbiter.state is State.HOLD
    scene.wait(round(INTERRUPTED * SECOND))
    assert scene.watch() is None and scene.arbiter.state is State.READY


def test_fault_127_an_error_does_not_cover_an_emergency_stop():
    scene = slow()
    press(scene)
    scene.arbiter.interrupt(BUG, scene.now)
    assert scene.arbiter.reason is STOP and scene.arbiter.state is State.FAULT
