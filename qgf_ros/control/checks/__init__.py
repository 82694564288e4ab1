"""What is asked of the state before the robot moves: a file per check, and the table of them.

Here are the checks of a whole observation. Those of single messages and of their times (clocks.py,
frozen.py) are asked by the assembler, in an order that matters.
"""

from __future__ import annotations

from qgf_ros.control.checks.base import StateCheck
from qgf_ros.control.checks.bounds import Bounds

# In this order; the first problem is the reason of the HOLD. A new check is one line here.
CHECKS: tuple[type[StateCheck], ...] = (Bounds,)
