"""What an episode was for, and how it ended: reward, success, goals, attempts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from qgf_ros.spaces.condition import Condition
from qgf_ros.spaces.observations.source import ObservationSource
from qgf_ros.spaces.source import MAX_AGE, Source, later
from qgf_ros.spaces.timing import TimeSpec


@dataclass(frozen=True)
class GoalSpec:
    """Where a policy is told to go.

    observation: the source that carries the goal. achieved: names of observed numbers
    ("cube.pose.position.x"), one for each number of the goal and in its order, that say where
    things are; within `radius` of the goal, in their unit, it is reached.
    """

    observation: str
    achieved: tuple[str, ...]
    radius: float

    def __post_init__(self) -> None:
        if not 0 < self.radius < math.inf:
            raise ValueError(f"radius is {self.radius}; it must be positive and finite")

    def check(self, observations: Sequence[ObservationSource]) -> None:
        """Raises ValueError where the goal is none of what is observed, or not told apart from it."""
        sources = {o.name: o for o in observations}
        if self.observation not in sources:
            raise ValueError(
                f"outcome.goal.observation is {self.observation!r}; allowed: {', '.join(sources)}"
            )
        if sources[self.observation].resample != "hold":
            raise ValueError(
                f"outcome.goal: resample of {self.observation} is {sources[self.observation].resample}; "
                "a goal is what was last said: give hold"
            )
        # By source, not by the beginning of the name: "goal" is not "goal_of_another".
        wanted = [f"{self.observation}.{n}" for n in sources[self.observation].feature_labels]
        names = [f"{s.name}.{n}" for s in observations for n in s.feature_labels]
        seen = [n for n in names if n not in wanted]
        strangers = [n for n in self.achieved if n not in seen]
        if strangers:
            what = "are the goal itself" if set(strangers) <= set(wanted) else "are not observed"
            raise ValueError(
                f"outcome.goal.achieved: {', '.join(strangers)} {what}; allowed: {', '.join(seen)}"
            )
        if len(self.achieved) != len(wanted) or len(set(self.achieved)) < len(wanted):
            raise ValueError(
                f"outcome.goal.achieved is {list(self.achieved)}; the goal has {len(wanted)} numbers: "
                f"give another observed number for each of {', '.join(wanted)}, in this order"
            )


@dataclass(frozen=True)
class AttemptsSpec:
    """How an episode of many attempts (play, teleoperation without resets) is cut into them.

    An attempt ends where success or failure says so, and besides, with end
        outcome: nowhere else.
        goal: where the goal is reached, a success, and where it changes, a cut.
        length: `seconds` after its first period: a cut.
    The next one begins once what ended it no longer holds.
    """

    end: Literal["outcome", "goal", "length"]
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.end != "length" and self.seconds is not None:
            raise ValueError(
                f"seconds is {self.seconds}, and end is {self.end}: only attempts of one length "
                "have it; leave it out, or give end: length"
            )
        if self.end == "length" and not (self.seconds and 0 < self.seconds <= MAX_AGE):
            raise ValueError(
                f"end is length, and seconds is {self.seconds}; allowed: above 0, to {MAX_AGE:g} s"
            )


@dataclass(frozen=True)
class EndSource(Source):
    """What says how an episode ended: one number, or a field test on several.

    `test` ("wrench.force.z > 3 N for 0.5 s", see `condition`) compares the numbers of `fields`, by
    their labels; the topic or column alone names the only one. Its duration is counted by stamp,
    and begins anew after a message more than `max_age` older than the next.
    """

    test: str = later("")
    max_age: float = later(0.0)  # s; 0: the larger of three periods and 50 ms

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.max_age <= MAX_AGE:
            raise ValueError(f"max_age is {self.max_age} s; allowed: 0 to {MAX_AGE:g} s")
        _ = self.condition  # raises ValueError

    @property
    def condition(self) -> Condition | None:
        """The parsed test; None without one."""
        if not self.test:
            return None
        whole = (f"/{self.topic}", self.topic, self.column) if len(self.labels) == 1 else ()
        names = {name: 0 for name in whole if name}
        for i, label in enumerate(self.labels):
            names |= {label: i, f"{self.topic}.{label}": i, f"/{self.topic}.{label}": i}
        return Condition.parse(self.test, names)


@dataclass(frozen=True)
class OutcomeSpec:
    """Where reward and success come from.

    objective: `reward` sums the reward source; `time_to_success` is 1 at success, discounted, and
        needs no failures; `reach_goal` is 1 on reaching `goal`, discounted, and learns from any
        recording, because whatever was reached later could have been the goal.
    success: true ends an episode in success, false in failure; an episode without either was cut
        (truncation). With a test: the moment it has held for as long as it says. failure: the same
        for failure; false says nothing. What comes first ends the episode; at one time, failure.
    episode_start: each message begins an episode.
    labels: file of what people said (`qgf data label`), which counts before any topic; relative to
        the dataset. A `labels.yaml` in the dataset counts without being named.
    assume_success: every recorded episode ended in success (demonstrations without labels).
    attempts: how an episode is cut into attempts, each of which counts as an episode.
    """

    objective: Literal["reward", "time_to_success", "reach_goal"]
    goal: GoalSpec | None = None
    reward: Source | None = None
    success: EndSource | None = None
    failure: EndSource | None = later(None)
    episode_start: Source | None = None
    intervention: Source | None = None
    assume_success: bool = False
    labels: str = later("")
    attempts: AttemptsSpec | None = later(None)

    def __post_init__(self) -> None:
        if self.intervention is not None:
            raise ValueError("intervention is not read by this version; leave it out")
        for key in ("reward", "success", "failure"):
            source = getattr(self, key)
            tested = isinstance(source, EndSource) and source.test
            if source is not None and not tested and len(source.labels) != 1:
                raise ValueError(
                    f"{key} is one number, and its source has {len(source.labels)}: {list(source.labels)}"
                    + ("" if key == "reward" else "; name one, or give a test")
                )
        if self.objective == "reward" and self.reward is None:
            raise ValueError(
                "objective reward needs a reward source: {topic, type, fields} or column"
            )
        if self.objective == "time_to_success" and not (
            self.success or self.labels or self.assume_success
        ):
            raise ValueError(
                "objective time_to_success needs a success source, labels, or assume_success: true"
            )
        if (self.objective == "reach_goal") != (self.goal is not None):
            raise ValueError(
                f"objective is {self.objective} {'without' if self.goal is None else 'with'} a goal; "
                "reach_goal and goal: {observation, achieved, radius} go together"
            )
        if self.attempts is not None:
            self._check_attempts(self.attempts)

    def _check_attempts(self, attempts: AttemptsSpec) -> None:
        if self.assume_success:
            raise ValueError(
                "assume_success says that every episode ended in success, and attempts that one holds "
                "many of them: leave one of the two out, and name what says success"
            )
        if attempts.end == "outcome" and not (self.success or self.failure):
            raise ValueError(
                "attempts.end is outcome, and neither success nor failure says when there is one "
                "(labels say how an attempt ended, not when); name a source, or give end: length or goal"
            )
        if attempts.end == "goal" and self.goal is None:
            raise ValueError(
                f"attempts.end is goal, and objective {self.objective} has none; give objective "
                "reach_goal with outcome.goal, or end: outcome or length"
            )

    def check(self, time: TimeSpec, observations: Sequence[ObservationSource]) -> None:
        """Raises ValueError where the outcome does not go with the rest of a contract."""
        if self.goal is not None:
            self.goal.check(observations)
        seconds = self.attempts.seconds if self.attempts is not None else None
        chunk = time.horizon * time.period
        if seconds is not None and round(seconds / time.period) < time.horizon:
            raise ValueError(
                f"outcome.attempts.seconds is {seconds}; an attempt must be as long as a chunk, "
                f"horizon * period = {chunk:g} s, or nothing of it is learnt"
            )

    @property
    def sources(self) -> dict[str, Source]:
        named = {
            "reward": self.reward,
            "success": self.success,
            "failure": self.failure,
            "episode_start": self.episode_start,
        }
        return {name: source for name, source in named.items() if source is not None}
