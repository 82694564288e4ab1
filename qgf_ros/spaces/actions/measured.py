"""Which observed number says where a command begins."""

from __future__ import annotations

from collections.abc import Sequence

from qgf_ros.spaces.actions.spec import ActionSpec
from qgf_ros.spaces.messages import message_type
from qgf_ros.spaces.messages.joints import JointState
from qgf_ros.spaces.observations.source import ObservationSource


class Measured:
    """Looks observed numbers up: by the name of a joint, or by a whole name."""

    def __init__(self, observations: Sequence[ObservationSource]) -> None:
        self._observations = observations
        self._names = [f"{o.name}.{label}" for o in observations for label in o.feature_labels]

    def check(self, actions: Sequence[ActionSpec]) -> None:
        """Raises ValueError unless every absolute command has one measured position to begin from,
        and no other has it."""
        users = [
            m for a in actions if not a.kind.measured_whole for m in map(self.at, a.measured.values())
        ]
        measured = [
            label.removeprefix("position.")
            for o in self._observations
            for label in o.labels
            if isinstance(message_type(o.type), JointState) and label.startswith("position.")
        ]
        for action in actions:
            if not action.kind.measured:
                continue
            if action.kind.measured_whole:
                self._check_whole(action)
                continue
            for name, where in action.measured.items():
                at = self.at(where)
                if at < 0:
                    raise ValueError(
                        f"action {action.name}: measured.{name} is {where!r}; allowed are joints whose "
                        f"position is observed once, {measured[:8]}, or an observed number by its whole "
                        f"name, {list(self._names[:8])}"
                    )
                if users.count(at) > 1:
                    raise ValueError(
                        f"action {action.name}: measured.{name} is {where!r}, which is also what another "
                        "command is measured by; each has a number of its own"
                    )
            sources = [o for o in self._observations for _ in o.feature_labels]
            begins = [self.at(action.measured.get(n, n)) for n in action.labels_of_joints]
            _check_held(action, [sources[k] for k in begins if k >= 0])
            own = [n for n in action.labels_of_joints if n not in action.measured]
            taken = [n for n in own if self.at(n) in users]
            if taken:
                raise ValueError(
                    f"action {action.name}: {', '.join(taken[:8])} is observed by its own name, and "
                    "another command is measured by that number; give it another in measured"
                )
            blind = [n for n in own if n not in measured]
            if blind:
                raise ValueError(
                    f"action {action.name}: positions of {', '.join(blind[:8])} are commanded but not observed; "
                    "without a measured start the first command would jump. Observe them by the same name in a "
                    f"sensor_msgs/JointState with fields [position], or say in measured what tells where they "
                    f"are: {{{blind[0]}: ...}}; observed are {measured[:8]}"
                )
            twice = [n for n in own if measured.count(n) > 1]
            if twice:
                raise ValueError(
                    f"action {action.name}: the position of {', '.join(twice[:8])} is observed more than once; "
                    "it must be one source that says where the command begins"
                )

    def _check_whole(self, action: ActionSpec) -> None:
        """One observation says where all of it begins."""
        key = action.kind.measured_whole
        told = action.measured.get(key, "")
        fitting = {
            o.name: o
            for o in self._observations
            if o.type in action.kind.types and o.fields == action.fields and o.encoding in action.kind.measures
        }
        if told not in fitting:
            raise ValueError(
                f"action {action.name}: measured.{key} is {told!r}; without a measured start the first command would "
                f"jump: name the observation that says where it is, of type {action.kind.types[0]}, fields "
                f"{list(action.fields)} and encoding {' or '.join(action.kind.measures)}; there are {list(fitting)}"
            )
        _check_held(action, [fitting[told]])

    def at(self, name: str) -> int:
        """Which observed number a joint's name or a whole name means; -1: none, or more than one."""
        if name in self._names:
            return self._names.index(name)
        labels = [(o, label) for o in self._observations for label in o.feature_labels]
        found = [
            at
            for at, (source, label) in enumerate(labels)
            if isinstance(message_type(source.type), JointState) and label == f"position.{name}"
        ]
        return found[0] if len(found) == 1 else -1


def _check_held(action: ActionSpec, sources: Sequence[ObservationSource]) -> None:
    """What is relative to a measurement is relative to one that the robot has: the last."""
    between = sorted({o.name for o in sources if o.resample != "hold"})
    if action.kind.learnt_from and between:
        raise ValueError(
            f"action {action.name}: representation {action.representation} begins at {', '.join(between)}, which is "
            "read between its messages (resample); the robot has the last message only: leave resample out there"
        )
