"""A sensor that repeats itself with fresh stamps, told from a robot that stands still."""

import numpy as np
import pytest
from qgf_make import (
    SECOND,
    START,
    Rig,
    constant,
    contract,
    position_dict,
    twist_dict,
    velocity_dict,
)

from qgf_ros.control.assembler import Assembler, Observation
from qgf_ros.control.checks.frozen import Frozen
from qgf_ros.control.notices import Notices
from qgf_ros.control.reasons import Problem
from qgf_ros.control.supervisor import State

T = SECOND // 20


def drive(value, command, *, seconds=0.6, moves=False, rate=1, after=0, notices=None):
    """Feeds `seconds` of state and commands; `command(k)`: (A,) or None. Sensors answer if `moves`."""
    own = contract(value)
    box = Assembler(own, notices=notices)
    state = {
        o.name: np.array([float(n.endswith("orientation.w")) for n in o.labels])
        for o in own.observations
    }
    for k in range(round(seconds * 20) + after):
        now = START + k * T
        for name, values in state.items():
            if k % rate == 0 or name == "goal":
                box.push(name, now, now, values + (1e-9 * k if moves else 0.0))
        got = box.assemble(now)
        box.sent(now, command(k))
    return box, got, now


def frozen(box, now):
    return [p.code_text for p in box._notices.current(now)]


def test_fault_006_repeated_numbers_in_commanded_motion_are_said_after_half_a_second():
    box, got, now = drive(velocity_dict(), lambda k: np.array([1.0, 0.0]))
    assert isinstance(got, Observation) and frozen(box, now) == ["FROZEN:joint_states"]
    early, got, now = drive(velocity_dict(), lambda k: np.array([1.0, 0.0]), seconds=0.45)
    assert frozen(early, now) == []


def watched(script):
    """script: of each period what `joints` says (None: nothing) and the speed that is commanded.
    -> how long the sensor has been frozen after each [s]."""
    frozen, found = Frozen(contract(velocity_dict())), []
    for k, (said, speed) in enumerate(script):
        if said is not None:
            frozen.heard("joints", np.full(4, float(said)))
        frozen.sent(START + k * T, np.array([speed, 0.0]))
        found.append(frozen.seconds("joints", START + k * T))
    return found


def test_fault_006_the_time_begins_with_the_last_new_number():
    """Long motion before it says nothing of the sensor."""
    found = watched([(k, 1.0) for k in range(40)] + [(39, 1.0)] * 12)
    assert found[:49] == [0.0] * 49 and found[-1] == pytest.approx(12 * 0.05)


def test_fault_006_what_is_stuck_before_the_first_command_is_found():
    found = watched([(7, 1.0)] * 15)
    assert found[-1] == pytest.approx(14 * 0.05)
    asked_late = [(7, 0.0)] * 3 + [(7, 1.0)] * 13
    assert watched(asked_late)[-1] >= 0.5


def test_fault_006_one_repeat_and_then_silence_is_a_source_that_is_late():
    assert watched([(7, 1.0)] * 2 + [(None, 1.0)] * 20) == [0.0] * 22
    assert watched([(7, 1.0)] * 3 + [(None, 1.0)] * 20)[-1] > 0.5


def test_fault_006_with_hold_if_frozen_it_is_no_state():
    box, _, now = drive(velocity_dict(), lambda k: np.array([1.0, 0.0]))
    box.hold_if_frozen = True
    got = box.assemble(now)
    assert isinstance(got, Problem) and got.code_text == "STATE_FROZEN:joint_states"


@pytest.mark.parametrize("command", [
    lambda k: np.zeros(2),
    lambda k: None,
    lambda k: np.array([0.03, 0.0]),  # 1.5 % of the largest speed
    lambda k: np.array([0.1 if k % 2 else -0.1, 0.0]),  # a dither leads nowhere
], ids=["zero", "nothing", "creep", "dither"])  # fmt: skip
def test_fault_006_no_motion_is_asked_for_and_nothing_is_frozen(command):
    box, _, now = drive(velocity_dict(), command, seconds=3.0)
    assert frozen(box, now) == []


def test_fault_006_a_sensor_that_moves_by_any_amount_is_not_frozen():
    box, _, now = drive(velocity_dict(), lambda k: np.array([1.0, 0.0]), moves=True, seconds=3.0)
    assert frozen(box, now) == []


def test_fault_006_long_rest_before_the_motion_does_not_count():
    """The numbers are old, the motion is not: a robot needs a moment to begin."""
    box, _, now = drive(velocity_dict(), lambda k: np.array([float(k > 100), 0.0]), seconds=5.4)
    assert frozen(box, now) == []


def test_a_slow_sensor_is_not_frozen_between_its_messages():
    value = velocity_dict()
    value["observations"][0]["max_age"] = 3.0
    box, _, now = drive(value, lambda k: np.array([1.0, 0.0]), rate=20, seconds=0.95)
    assert frozen(box, now) == []


def test_fault_006_positions_count_by_the_way_that_is_commanded():
    value = position_dict(rate=2.0)
    still, _, now = drive(value, lambda k: np.array([0.7, 0.0]), seconds=2.0)
    assert frozen(still, now) == []
    moved, _, now = drive(value, lambda k: np.array([0.02 * k, 0.0]))
    assert frozen(moved, now) == ["FROZEN:joint_states"]
    begun, _, now = drive(value, lambda k: np.array([0.9, 0.0]) if k > 30 else None, seconds=2.0)
    assert frozen(begun, now) == [], "the first command after silence is no way"


def test_only_what_measures_the_command_is_watched():
    """A pose and joints of other names under a twist: they may belong to something else."""
    own = contract(twist_dict())
    assert set(Assembler(own)._frozen._watched) == {"gripper"}
    value = twist_dict()
    value["observations"][1] |= {
        "type": "nav_msgs/Odometry",
        "fields": ["twist.twist.linear.x"],
        "encoding": "identity",
    }
    assert set(Assembler(contract(value))._frozen._watched) == {"tool", "gripper"}


def test_fault_006_odometry_under_a_commanded_twist():
    value = twist_dict()
    value["observations"][1] |= {
        "type": "nav_msgs/Odometry",
        "fields": ["twist.twist.linear.x"],
        "encoding": "identity",
    }
    box, _, now = drive(value, lambda k: np.array([0.3, 0.0, 0.0, 0.5]))
    assert frozen(box, now) == ["FROZEN:tool/pose"], "and not the gripper, which is told to stay"


def test_fault_006_in_the_core_a_warning_alone_or_holds_that_end_in_fault():
    notices = []
    for hold in (False, True):
        rig = Rig(
            contract(velocity_dict(rate=20.0)), plan=constant([0.5, 0.5]), hold_if_frozen=hold
        )
        states = [rig.step().state for _ in range(160)]
        notices.append([p.code_text for p in rig.core.notices.current(rig.now)])
        if hold:
            assert states.index(State.HOLD) <= 14, "half a second of motion"
            assert State.RUN in states[states.index(State.HOLD) :], "a robot at rest is no proof"
            assert (
                states[-1] is State.FAULT
                and rig.ticks[-1].reason.code_text == "STATE_FROZEN:joint_states"
            )
        else:
            assert set(states) == {State.RUN}
            assert notices[0] == ["FROZEN:joint_states"]


def test_clear_forgets_it():
    notices = Notices()
    box, _, now = drive(velocity_dict(), lambda k: np.array([1.0, 0.0]), notices=notices)
    box.clear()
    notices.clear()
    box.push("joints", now, now, np.zeros(4))
    box.push("goal", now, now, np.zeros(1))
    assert isinstance(box.assemble(now), Observation) and notices.current(now) == ()
