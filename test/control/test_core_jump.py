"""Clocks that jump: what is forgotten, what is kept, and what does not count as again."""

import copy

from qgf_make import SECOND, START, Rig, contract, velocity_dict

from qgf_ros.control.reasons import Problem
from qgf_ros.control.supervisor import State, Supervisor


def goal_contract():
    value = copy.deepcopy(velocity_dict())
    next(o for o in value["observations"] if o["name"] == "goal").pop("max_age")  # an hour
    value["outcome"] = {
        "objective": "reach_goal",
        "goal": {"observation": "goal", "achieved": ["joints.position.a"], "radius": 0.1},
    }
    return contract(value)


def test_fault_020_021_a_goal_that_was_said_once_is_still_the_goal_after_a_jump():
    rig = Rig(goal_contract())
    assert rig.step(5).state is State.RUN
    rig.core.clock_jumped()
    rig.now -= 500 * SECOND
    assert rig.step(5, skip=("goal",)).state is State.HOLD, (
        "joints anew, and then ten healthy ticks"
    )
    assert rig.step(10, skip=("goal",)).state is State.RUN


def test_fault_020_all_else_is_forgotten():
    rig = Rig()
    rig.step(5)
    rig.core.clock_jumped()
    assert rig.step(15, skip=("goal",)).state is State.HOLD
    assert rig.ticks[-1].reason.code_text == "STATE_MISSING:goal"


def test_fault_020_holds_of_another_life_of_the_clock_do_not_count():
    supervisor = Supervisor(enabled=True)
    for begin in (1000, 500, 20):
        now = START + begin * SECOND
        supervisor.update(now, None)
        for k in range(12):
            supervisor.update(now + k, None)
        assert supervisor.update(now + 20, Problem("STATE_STALE", "a", "")) is State.HOLD
