"""One setting: its type, default and range, and the check of a value that was given for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from qgf_ros.errors import UsageError

INFINITE = ("inf", ".inf", "+inf", "+.inf", "infinity")
TINY = 5e-324  # beta: anything above zero, until the policy's floor is known


@dataclass(frozen=True)
class Spec:
    """One setting. `low` and `high` are inclusive; a policy's floor raises the one of beta."""

    name: str
    kind: type  # bool, int, float or str
    default: Any  # None: unset
    description: str
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf
    live: bool = False  # may change while the robot is driven
    choices: tuple[str, ...] = ()
    unrepeatable: str = ""  # why a replay cannot repeat it at another value than the default

    @property
    def range_text(self) -> str:
        if self.choices:
            return ", ".join(self.choices)
        return "" if self.low == -math.inf else f"{self.low:g} to {self.high:g}"

    def shown(self, value: Any) -> Any:
        """The value as a ROS parameter, which cannot be None."""
        if value is None:
            return math.nan if self.kind is float else ""
        return value

    def checked(self, value: Any, low: float | None = None) -> Any:
        """A value that was given from outside, in the setting's type; None for a text that is not set.

        Integers serve as doubles, and "inf" is understood, since that is how `ros2 param set` sends
        `beta 1` and `beta inf`.

        Args:
            low: takes the place of the setting's own.

        Raises:
            UsageError: what was given, what is allowed.
        """
        low = self.low if low is None else low
        if self.kind is float:
            if isinstance(value, str) and value.strip().lower() in INFINITE:
                value = math.inf
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise UsageError(
                    f"{self.name} must be a number, not {type(value).__name__} {value!r}"
                )
            value = float(value)
            if math.isnan(value):
                raise UsageError(f"{self.name} is NaN; allowed: {low:g} to {self.high:g}")
        elif type(value) is not self.kind:
            raise UsageError(
                f"{self.name} must be of type {self.kind.__name__}, not {type(value).__name__} {value!r}"
            )
        if self.kind in (int, float) and not low <= value <= self.high:
            hint = (
                " (a temperature: the guidance weight is 1/beta; inf is unguided)"
                if self.name == "beta"
                else ""
            )
            raise UsageError(f"{self.name} is {value:g}; allowed: {low:g} to {self.high:g}{hint}")
        if self.choices and value not in self.choices:
            raise UsageError(f"{self.name} is {value!r}; allowed: {', '.join(self.choices)}")
        return None if self.default is None and value == "" else value

    @property
    def readme_row(self) -> tuple[str, str, str, str, str]:
        """The setting's row of the README's table, which a test holds to this."""
        default = str(self.default).lower() if self.kind is bool else f"{self.default}"
        shown = f"`{default}`"
        if self.default is None:
            shown = "the policy's" if self.kind is float else "none"
        span = (
            "above 0, not below the policy's floor, to inf" if self.low == TINY else self.range_text
        )
        return f"`{self.name}`", shown, span, "yes" if self.live else "", self.description
