"""Enabling acts at once or is refused: a clock that stands still is no way to say it for later."""

from qgf_make import Rig

from qgf_ros.control.supervisor import State


def test_fault_022_113_enabling_while_the_clock_stands_still_is_refused():
    rig = Rig(enabled=False)
    assert rig.step(2).state is State.READY
    for _ in range(40):  # somebody paused the simulation
        rig.core.clock_stopped(rig.now)
    assert "clock stands still" in rig.core.enable(True)
    assert rig.step(40).state is State.READY  # minutes later, as far as anybody knows
    assert not rig.sent
    assert rig.core.enable(True) == "" and rig.step().state is State.RUN


def test_fault_022_113_enabling_just_before_the_clock_stops_is_not_remembered_either():
    rig = Rig(enabled=False)
    assert rig.step(2).state is State.READY
    assert rig.core.enable(True) == ""
    rig.core.clock_stopped(rig.now)
    assert rig.step(40).state is State.READY and not rig.sent


def test_fault_022_disabling_is_never_refused():
    rig = Rig()
    assert rig.step(2).state is State.RUN
    rig.core.clock_stopped(rig.now)
    assert rig.core.enable(False) == ""
    assert rig.step(40).state is State.READY


def test_fault_022_a_stop_is_latched_and_said_while_the_clock_stands_still():
    """A person holds the button until the status says FAULT."""
    rig = Rig()
    assert rig.step(2).state is State.RUN
    assert rig.core.clock_stopped(rig.now).state is State.HOLD
    rig.core.estop()
    told = rig.core.clock_stopped(rig.now)
    assert told.state is State.FAULT and told.reason.code == "ESTOP"
    assert rig.step(40).state is State.FAULT
