"""Several sources on one topic."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qgf_ros.spaces.actions.spec import ActionSpec
from qgf_ros.spaces.messages import TYPES, message_type
from qgf_ros.spaces.messages.joints import Joints
from qgf_ros.spaces.source import Source


def check_topics(actions: Sequence[ActionSpec]) -> None:
    """Raises ValueError where two actions on one topic would undo each other."""
    for topic in sorted({a.topic for a in actions}):
        _check_topic([a for a in actions if a.topic == topic])


def check_types(sources: Iterable[tuple[str, Source]]) -> None:
    """Raises ValueError where one topic would have two types: whoever publishes it has one, and the other
    source would never be heard."""
    first: dict[str, tuple[str, str]] = {}
    for name, source in sources:
        type_, other = first.setdefault(source.topic.strip("/"), (source.type, name))
        if type_ != source.type:
            raise ValueError(
                f"topic {source.topic} is {type_} for {other} and {source.type} for {name}; a topic has one type"
            )


def _check_topic(actions: list[ActionSpec]) -> None:
    """Several actions on one topic must tell by names which joints each is about."""
    if len(actions) == 1:
        return
    names = ", ".join(a.name for a in actions)
    what = f"two actions command one topic, {actions[0].topic} ({names})"
    types = sorted({a.type for a in actions})
    if len(types) > 1:
        raise ValueError(f"{what}, with types {', '.join(types)}; a topic has one type")
    if not isinstance(message_type(types[0]), Joints):
        named = ", ".join(t.name for t in TYPES.values() if isinstance(t, Joints))
        raise ValueError(
            f"{what}; {types[0]} does not say whose numbers it holds: make them one, or each "
            f"would undo the other (by joint names: {named})"
        )
    joints = [n for a in actions for n in a.names]
    twice = sorted({n for n in joints if joints.count(n) > 1})
    if twice:
        raise ValueError(f"{what}, and both {', '.join(twice)}; give each joint to one of them")
