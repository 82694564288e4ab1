"""What deserves attention and stops nothing: the warnings of ~/status and /diagnostics.

A notice stands for a second after its last cause, so that a status at 10 Hz shows what lasted for
one tick only.
"""

from __future__ import annotations

from qgf_ros.control.reasons import Problem

HELD = 1.0  # s


class Notices:
    """The current ones, by code and subject. `note` and `current` may be called from different threads."""

    def __init__(self) -> None:
        self._noted: dict[tuple[str, str], tuple[int, Problem]] = {}

    def note(self, now: int, problem: Problem) -> None:
        """At `now` [ns on the control clock] there is this cause; its newest detail counts."""
        self._noted[problem.code, problem.subject] = (now, problem)

    def current(self, now: int) -> tuple[Problem, ...]:
        """Those whose last cause is at most 1 s away, in the order in which they first came.

        Away, not ago: after the clock went back, what was noted ahead of it does not stay for ever.
        """
        noted = list(self._noted.values())  # one look: `note` may add meanwhile
        return tuple(p for at, p in noted if abs(now - at) * 1e-9 <= HELD)

    def clear(self) -> None:
        """Forgets all."""
        self._noted.clear()
