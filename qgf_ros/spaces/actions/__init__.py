"""What a robot does: a file per kind, and the table of them. A new kind is one line here."""

from __future__ import annotations

from qgf_ros.spaces.actions.base import ActionKind, Commanded
from qgf_ros.spaces.actions.gripper import Gripper, GripperVelocity
from qgf_ros.spaces.actions.joint_delta import JointDeltaLast, JointDeltaObserved
from qgf_ros.spaces.actions.joint_position import JointPosition
from qgf_ros.spaces.actions.joint_velocity import JointVelocity
from qgf_ros.spaces.actions.pose import Pose, PoseDeltaLast, PoseDeltaObserved
from qgf_ros.spaces.actions.twist import Twist
from qgf_ros.spaces.messages import TYPES

KINDS: tuple[ActionKind, ...] = (
    JointPosition(),
    JointDeltaObserved(),
    JointDeltaLast(),
    JointVelocity(),
    Twist(),
    Pose(),
    PoseDeltaObserved(),
    PoseDeltaLast(),
    Gripper(),
    GripperVelocity(),
)


def kind_of(spec: Commanded) -> ActionKind:
    """The kind of an action. Raises ValueError where there is none: what is said of it contradicts
    itself, or is not in this version."""
    _one_of("space", spec.space, [k.space for k in KINDS])
    _one_of("representation", spec.representation, [k.representation for k in KINDS])
    owners = [k for k in KINDS if spec.type in k.types]
    there = [k for k in KINDS if k.space == spec.space]
    fit = [k for k in there if spec.type in k.types or not (owners or k.types)]
    if not fit:
        owner = (owners or there)[0]
        raise ValueError(
            f"space is {spec.space} and type {spec.type}; space {owner.space} goes with "
            f"{' or '.join(owner.types)}, and they with it"
        )
    for kind in fit:
        if kind.representation == spec.representation:
            return kind
    allowed = " or ".join(dict.fromkeys(k.representation for k in fit))
    raise ValueError(
        f"representation is {spec.representation}; of space {spec.space} it must be {allowed}"
    )


def by_type(type_name: str) -> ActionKind | None:
    """The kind that a message type is the own of; None: the type may be of several kinds."""
    return next((k for k in KINDS if type_name in k.types), None)


def command_types() -> tuple[str, ...]:
    """Message types that can carry commands."""
    return tuple(t.name for t in TYPES.values() if t.command or by_type(t.name) is not None)


def _one_of(key: str, given: str, allowed: list[str]) -> None:
    if given not in allowed:
        raise ValueError(f"{key} is {given!r}; allowed: {', '.join(dict.fromkeys(allowed))}")
