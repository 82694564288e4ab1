"""What the contract's objective asks of training, one file for each; what they share is in `base.py`.

    reward.py           the sum of what is recorded as reward
    time_to_success.py  1 at success, discounted
    reach_goal.py       the same for any goal that was reached, drawn afresh for each batch

A new one is a file with an `Objective`, named as the contract names it.
"""

from __future__ import annotations

from importlib import import_module

from qgf_ros.spaces.contract import Contract
from training.learn.objectives.base import Objective


def objective_of(contract: Contract) -> Objective:
    """The contract's."""
    found: Objective = import_module(f"{__name__}.{contract.outcome.objective}").Objective(contract)
    return found
