"""The contract: what is state, what is action, what is the outcome, and when.

One file, `contract.yaml`, read by the bag readers, training, the node and the simulation.
Values are matched by name, never by position; nowhere else is an order of joints written down.

The time law: action i of a chunk sampled for observation time t is executed at t + i * period.
Recorded data is paired by the same law, so the lead of a demonstrator's commands over the
states is learnt once and never added again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ros.files.strict_yaml import build, load_yaml
from qgf_ros.spaces.actions.base import ActionKind
from qgf_ros.spaces.actions.measured import Measured
from qgf_ros.spaces.actions.spec import ActionSpec
from qgf_ros.spaces.actions.topics import check_topics, check_types
from qgf_ros.spaces.observations.image import MAX_CAMERAS
from qgf_ros.spaces.observations.source import ObservationSource
from qgf_ros.spaces.outcome import EndSource, OutcomeSpec
from qgf_ros.spaces.source import MAX_AGE
from qgf_ros.spaces.timing import TimeSpec

VERSION = 1


@dataclass(frozen=True)
class Contract:
    """The whole contract. Load it with `Contract.load`."""

    contract: int
    robot: str
    time: TimeSpec
    observations: tuple[ObservationSource, ...]
    actions: tuple[ActionSpec, ...]
    outcome: OutcomeSpec
    description: str = ""

    def __post_init__(self) -> None:
        if self.contract != VERSION:
            raise ValueError(
                f"contract version is {self.contract}; this qgf_ros reads version {VERSION}"
            )
        if not self.observations or not self.actions:
            raise ValueError("observations and actions must each list at least one source")
        names = [*(o.name for o in self.observations), *(a.name for a in self.actions)]
        names += self.outcome.sources
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(
                f"the name {', '.join(twice)} is used twice; reward, success, failure and episode_start "
                "are taken"
            )
        self._measured.check(self.actions)
        self.outcome.check(self.time, self.observations)
        loops = sorted({a.topic for a in self.actions} & {o.topic for o in self.observations})
        if loops:
            raise ValueError(f"{', '.join(loops)} is both observed and commanded: a loop")
        check_topics(self.actions)
        if len(self.cameras) > MAX_CAMERAS:
            raise ValueError(f"{len(self.cameras)} cameras are observed; at most {MAX_CAMERAS}")
        for camera in self.cameras:
            if camera.latency >= self.max_age(camera):
                raise ValueError(
                    f"{camera.name}: latency is {camera.latency:g} s and max_age {self.max_age(camera):g} s: its "
                    "features would be too old when they come. Give a max_age of latency and three images' intervals"
                )
        named = [*((o.name, o) for o in self.observations), *((a.name, a) for a in self.actions)]
        check_types([*named, *self.outcome.sources.items()])

    @classmethod
    def load(cls, path: str | Path) -> Contract:
        """Reads and checks a contract file. Raises UsageError naming the place and what is allowed."""
        return cls.from_dict(load_yaml(Path(path)), str(path))

    @classmethod
    def from_dict(cls, value: Any, where: str = "contract") -> Contract:
        return build(cls, value, where)

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, ready for YAML; `from_dict` gives the same contract back."""
        return json.loads(json.dumps(_plain(self)))

    def for_robot(self) -> dict[str, Any]:
        """As `to_dict`, with what the robot is sent in place of what is learnt of it."""
        plain = self.to_dict()
        for action, spec in zip(plain["actions"], self.actions):
            action["representation"] = spec.kind.sent
            for key in ("axes", "rotation"):
                action.pop(key, None)
        return plain

    @cached_property
    def heard(self) -> Contract:
        """The same contract as the control node hears it: features in place of images."""
        if not any(o.is_camera for o in self.observations):
            return self
        heard = dataclasses.replace(self, observations=tuple(o.heard for o in self.observations))
        heard.__dict__["recorded"] = self
        return heard

    @cached_property
    def recorded(self) -> Contract:
        """Of a contract as it is `heard` the one that it was made of."""
        return self

    @property
    def cameras(self) -> tuple[ObservationSource, ...]:
        """The sources of images; none in a contract as it is `heard`."""
        return tuple(o for o in self.observations if o.is_camera)

    @property
    def hash(self) -> str:
        """SHA-256 of the content, independent of comments and layout; the same as it is `heard`."""
        plain = self.recorded.to_dict()
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()

    @cached_property
    def observation_names(self) -> tuple[str, ...]:
        """Names of the O numbers of the observation vector, in order."""
        return tuple(f"{o.name}.{label}" for o in self.observations for label in o.feature_labels)

    @property
    def bounded(self) -> np.ndarray:
        """(O,) bool: which observed numbers the box of recorded states judges."""
        return np.array([o.kind.bounded for o in self.observations for _ in o.feature_labels])

    @cached_property
    def observation_slices(self) -> dict[str, slice]:
        """By the source's name, where its features stand in the observation vector."""
        return _slices([(o.name, o.feature_labels) for o in self.observations])

    @property
    def observation_siblings(self) -> np.ndarray:
        """(O,) int: numbers that share one unit because they stand in the same message and field
        (positions of joints, axes of a point, an orientation) have the same number here."""
        stems = [f"{o.name}.{stem}" for o in self.observations for stem in o.stems]
        return np.unique(stems, return_inverse=True)[1]

    @cached_property
    def action_names(self) -> tuple[str, ...]:
        """Names of the A numbers of one action, in order: "<action>.<joint>"."""
        return tuple(f"{a.name}.{n}" for a in self.actions for n in a.labels_of_joints)

    @cached_property
    def action_slices(self) -> dict[str, slice]:
        """By the action's name, where its numbers stand among the A of one action."""
        return _slices([(a.name, a.labels_of_joints) for a in self.actions])

    @property
    def limits(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lower and upper bound and largest change per second, each (A,)."""
        rows = [a.limits[n] for a in self.actions for n in a.labels_of_joints]
        return tuple(np.array([getattr(r, k) for r in rows]) for k in ("min", "max", "rate"))  # type: ignore[return-value]

    @cached_property
    def action_kinds(self) -> tuple[ActionKind, ...]:
        """The kind of each of the A numbers of one action."""
        return tuple(a.kind for a in self.actions for _ in a.labels_of_joints)

    @property
    def velocity_like(self) -> np.ndarray:
        """(A,) bool: which numbers stop at zero rather than where they are."""
        return np.array([kind.stops_at_zero for kind in self.action_kinds])

    @property
    def travel(self) -> np.ndarray:
        """(A,) how far a command of 1 leads within a period; 0 where it says the place itself."""
        return np.array([kind.travel(self.time.period) for kind in self.action_kinds])

    @property
    def speeds(self) -> np.ndarray:
        """(A,) the largest speed that each number may command, per s."""
        rows = [(a.kind, a.limits[n]) for a in self.actions for n in a.labels_of_joints]
        return np.array([kind.speed(limit, self.time.period) for kind, limit in rows])

    @cached_property  # asked for with every command that passes the gate
    def measured_positions(self) -> np.ndarray:
        """(A,) int: which observed number is the measured position of each command that begins at
        one, found by the joint's name, or by what `measured` says; -1 of the others."""
        return np.array([
            self._measured.at(a.measured.get(n, n)) if a.kind.measured and not a.kind.measured_whole else -1
            for a in self.actions
            for n in a.labels_of_joints
        ])  # fmt: skip

    @cached_property
    def learnt_names(self) -> tuple[str, ...]:
        """Names of the numbers that a policy learns of one action, in order."""
        return tuple(f"{a.name}.{n}" for a in self.actions for n in a.kind.learnt_labels(a))

    @property
    def learnt_limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper end of what each of `learnt_names` can be where commands are within their limits."""
        parts = [a.kind.learnt_limits(a) for a in self.actions]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    @property
    def learnt_measured(self) -> np.ndarray:
        """`measured_positions` of `learnt_names`: of those that are commanded as they are learnt."""
        at, slices = self.measured_positions, self.action_slices
        return np.concatenate([
            at[slices[a.name]] if not a.kind.learnt_from else np.full(len(a.kind.learnt_labels(a)), -1)
            for a in self.actions
        ])  # fmt: skip

    def measured(self, obs: np.ndarray) -> np.ndarray:
        """(..., O), robot units -> (..., A): where each command that says a place is measured to be; NaN of
        the others."""
        known = np.concatenate([obs, np.full((*obs.shape[:-1], 1), np.nan)], axis=-1)
        found = known[..., self.measured_positions]
        for a in self.actions:
            if a.kind.measured_whole:
                seen = obs[..., self.observation_slices[a.measured[a.kind.measured_whole]]]
                found[..., self.action_slices[a.name]] = a.kind.start(a, seen)
        return found

    @property
    def relative_positions(self) -> np.ndarray:
        """int: as `learnt_measured`, for the commands that may be learnt relative to them.

        Not where the measured position is read between messages, for the node can only hold the last one.
        """
        held = [o.resample == "hold" for o in self.observations for _ in o.feature_labels]
        relative = np.array([a.kind.relative for a in self.actions for _ in a.kind.learnt_labels(a)])
        at = self.learnt_measured
        return np.where(relative & np.array([*held, False])[at], at, -1)

    def max_age(self, source: ObservationSource | EndSource) -> float:
        """Oldest usable age of a source [s]. A goal that was said once stays the goal."""
        goal = self.outcome.goal.observation if self.outcome.goal is not None else None
        if isinstance(source, ObservationSource) and source.name == goal:
            return source.max_age or MAX_AGE
        return source.max_age or max(3 * self.time.period, 0.05)

    @cached_property
    def _measured(self) -> Measured:
        return Measured(self.observations)


def _slices(sources: Sequence[tuple[str, Sequence[str]]]) -> dict[str, slice]:
    """Where the labels of each named source stand, one source after the other."""
    found, begin = {}, 0
    for name, labels in sources:
        found[name] = slice(begin, begin + len(labels))
        begin += len(labels)
    return found


def _default(f: dataclasses.Field[Any]) -> Any:
    return f.default if f.default_factory is dataclasses.MISSING else f.default_factory()


def _plain(value: Any) -> Any:
    """As `dataclasses.asdict`, without the later keys that have their default: a contract that does
    not use them keeps its hash."""
    if dataclasses.is_dataclass(value):
        return {
            f.name: _plain(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if not (f.metadata.get("later") and getattr(value, f.name) == _default(f))
        }
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
