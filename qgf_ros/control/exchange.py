"""Whether a policy may take over from another one while the robot is driven."""

from __future__ import annotations

from dataclasses import replace

from qgf_ros.errors import PolicyRefused
from qgf_ros.policy.folder import Policy, check_fits
from qgf_ros.spaces.contract import Contract


def check_exchange(policy: Policy, current: Contract) -> None:
    """What node and robot have agreed on stays: the robot, its topics, names, types, units, limits
    and the control period. How long a chunk is, and how much of it is executed, is the policy's.

    Raises:
        PolicyRefused: both sides of every difference.
    """
    own, time = policy.contract, current.time
    if own.robot != current.robot:
        raise PolicyRefused(
            f"{policy.folder} is for robot {own.robot!r}, and this one is {current.robot!r}"
        )
    goals = [c.outcome.goal.observation if c.outcome.goal else "none" for c in (own, current)]
    if goals[0] != goals[1]:
        raise PolicyRefused(
            f"{policy.folder} takes its goal from {goals[0]}, and the one in use from {goals[1]}"
        )
    alike = replace(own.time, horizon=time.horizon, execute_steps=time.execute_steps)
    check_fits(policy.folder, replace(own, time=alike), current)
