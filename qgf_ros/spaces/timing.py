"""The rhythm of control."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TimeSpec:
    """Control period [s], chunk length H, and how many actions of a chunk are executed."""

    period: float
    horizon: int
    execute_steps: int = 0  # 0: all of them

    def __post_init__(self) -> None:
        if not 1e-4 <= self.period <= 10:
            raise ValueError(f"period is {self.period} s; allowed: 0.0001 to 10 s")
        if not 1 <= self.horizon <= 256:
            raise ValueError(f"horizon is {self.horizon}; allowed: 1 to 256")
        if not 0 <= self.execute_steps <= self.horizon:
            raise ValueError(
                f"execute_steps is {self.execute_steps}; allowed: 1 to horizon ({self.horizon})"
            )
        if self.execute_steps == 0:
            object.__setattr__(self, "execute_steps", self.horizon)
