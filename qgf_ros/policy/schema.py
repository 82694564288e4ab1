"""The schemas of policy.yaml: 1 and 2, where a policy is two networks, 3, where it is components, and 4,
where encoders of cameras are among them.

What each says ends in the same `PolicyDescription`. 1 and 2 are read for ever.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

from qgf_ros.errors import UsageError
from qgf_ros.files.strict_yaml import build, shown
from qgf_ros.policy.description import (
    COMPONENTS,
    DESCRIPTION,
    SCHEMA,
    CameraComponent,
    Network,
    Plugin,
    PolicyDescription,
)


def check_schema(content: Any) -> None:
    """Before the rest: a newer schema may have keys that this version does not know."""
    schema = content.get("schema") if isinstance(content, dict) else None
    if type(schema) is not int or not 1 <= schema <= SCHEMA:
        newer = isinstance(schema, int) and schema > SCHEMA
        hint = (
            "it was written by a newer qgf_ros: update this one"
            if newer
            else "train the policy again"
        )
        raise UsageError(
            f"{DESCRIPTION}: schema is {shown(schema)}, this qgf_ros reads 1 to {SCHEMA}; {hint}"
        )


@dataclass(frozen=True)
class _Mlp:
    """A network as schema 3 has it: as any component, it says its files and what it needs."""

    kind: Literal["mlp"]
    files: tuple[str, ...]
    hidden: tuple[int, ...]
    members: int = 1
    output: Literal["linear", "sigmoid"] = "linear"
    needs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.files) != 1 or self.needs:
            raise ValueError(
                f"there are {len(self.files)} files and {len(self.needs)} needs; a network has one file of "
                "weights, and needs no package"
            )

    def network(self) -> Network:
        return Network(self.files[0], self.hidden, self.members, self.kind, self.output)


@dataclass(frozen=True)
class _Components:
    """The key `components` of schema 3."""

    encoders: tuple[Plugin, ...]
    velocity: dict[str, Any]  # of a kind that says what else is in it
    critic: _Mlp
    cameras: tuple[CameraComponent, ...] = ()


STAND_IN = {"file": "none.safetensors", "hidden": [1]}


def description_of(content: dict[str, Any]) -> PolicyDescription:
    """From the plain values of policy.yaml, of any schema that this version reads.

    Raises UsageError.
    """
    new = content["schema"] >= COMPONENTS
    inside = ("velocity", "critic", "encoders", "cameras")
    for key in inside if new else ("encoders", "cameras", "components"):
        if key in content:
            raise UsageError(
                f"{DESCRIPTION} has an unknown key {key!r} (schema {content['schema']}); components are "
                f"described under `components` from schema {COMPONENTS} on"
            )
    if not new:
        return build(PolicyDescription, content, DESCRIPTION)
    where = f"{DESCRIPTION}: components"
    parts = build(_Components, content.get("components"), where)
    network = parts.velocity.get("kind") == "mlp"
    velocity: Any = build(_Mlp if network else Plugin, parts.velocity, f"{where}.velocity")
    rest = {k: v for k, v in content.items() if k != "components"}
    first = build(PolicyDescription, rest | {"velocity": STAND_IN, "critic": STAND_IN}, DESCRIPTION)
    try:
        return dataclasses.replace(
            first,
            velocity=velocity.network() if isinstance(velocity, _Mlp) else velocity,
            critic=parts.critic.network(),
            encoders=parts.encoders,
            cameras=parts.cameras,
        )
    except ValueError as error:
        raise UsageError(f"{DESCRIPTION}: {error}") from None


def plain_of(description: PolicyDescription) -> dict[str, Any]:
    """The inverse of `description_of`: plain values, in the order in which they are written."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(description)))
    encoders, cameras = plain.pop("encoders"), plain.pop("cameras")
    if description.schema < COMPONENTS:
        return plain
    components: dict[str, Any] = {"encoders": encoders}
    for name in ("velocity", "critic"):
        part = plain.pop(name)
        if "file" in part:
            part = {"kind": part.pop("kind"), "files": [part.pop("file")], **part}
        components[name] = part
    if cameras:
        components["cameras"] = cameras
    return {
        "schema": plain.pop("schema"),
        "name": plain.pop("name"),
        "components": components,
        **plain,
    }
