"""What the course of a trial needs of the node, of the keys and of the screen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from qgf_ros.control.reasons import Problem
from qgf_ros.control.supervisor import State
from qgf_ros.trial.record import Outcome


@dataclass(frozen=True)
class View:
    """The newest status of the node."""

    state: State
    enabled: bool
    beta: float  # in effect
    policy_sha256: str
    reason: str = ""  # see Status.msg
    detail: str = ""
    age: float = 0.0  # s since it arrived, steady
    holds: int = 0  # HOLDs and FAULTs entered since the trial connected

    @property
    def taken_over(self) -> bool:
        """Somebody else commands the robot."""
        problem = Problem.parse(self.reason)
        return problem is not None and problem.code == "TAKEOVER"


class Link(Protocol):
    """The node, and what goes with it. All of it answers at once, but `set_beta`, `enable` and
    `reset`, which wait for the service for 2 s at most and raise QgfError without an answer."""

    slew: float  # s, the node's guidance.slew

    def view(self) -> View: ...
    def trouble(self) -> str:
        """Why no episode may begin although the node is ready, or ""."""

    def now(self) -> float:
        """s on the node's clock."""

    def beat(self) -> None:
        """Tells the guard that the trial lives. Raises QgfError where there is no guard any more."""

    def set_beta(self, beta: float) -> None: ...
    def enable(self, on: bool) -> str:
        """Why not, or ""."""

    def reset(self) -> str: ...
    def reset_scene(self) -> Callable[[], str | None] | None:
        """Asks for the scene to be put back; None where there is no service for it. The answer is
        None as long as there is none, "" when it is done, else why not."""

    def words(self) -> list[str]:
        """What came on the operator's topic since the last call."""

    def judged(self) -> Outcome | None:
        """What the contract's outcome topics say since the robot was enabled, if they count."""

    def say(self, phase: str, episode: int) -> None: ...
    def begin_bag(self, path: Path) -> None: ...
    def unheard(self) -> list[str]:
        """Observed topics of which the bag has nothing yet."""

    def bag_seconds(self) -> float:
        """From the episode's begin, as training counts it, until now."""

    def began_anew(self) -> bool:
        """Another episode has begun in the bag's, by `episode_start`."""

    def end_bag(self) -> None: ...


class OperatorInput(Protocol):
    """The keys."""

    lost: bool

    def pressed(self, timeout: float) -> list[str]: ...
    def forget(self) -> None: ...


class Screen(Protocol):
    def show(self, state: str, line: str, keys: Sequence[str], seconds: float) -> None:
        """keys: "s success" and so on. seconds: left in the episode, 0 where it is no matter."""

    def note(self, text: str) -> None: ...
