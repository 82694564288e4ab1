"""Components of other packages: velocity fields and encoders that a policy names and does not hold.

A policy is data. Where it needs code that is not ours, it says the name of an entry point, and the
robot's owner has installed the package that provides it. Nothing of it is imported before a sampler is
made, which a child process does first, see `vetting`.

    qgf.velocity_fields    make(policy, component, tensors) -> guidance.protocols.VelocityField
    qgf.encoders           make(policy, component, tensors) -> an Encoder, as below

policy: the loaded `Policy`; component: its `Plugin` (options among it); tensors: file ->
name -> float32 array.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np

from qgf_ros.errors import DeviceUnavailable, PolicyRefused
from qgf_ros.files.strict_yaml import clipped, shown
from qgf_ros.policy.description import OURS, Network, Plugin

VELOCITY_FIELDS = "qgf.velocity_fields"
ENCODERS = "qgf.encoders"


class Encoder(Protocol):
    """What the networks are shown of an observation. A function: the same in gives the same out."""

    def __call__(self, raw: np.ndarray) -> np.ndarray:
        """raw: (O,) float64, robot units, in the order of the contract -> (size,) finite numbers."""


def check_kinds(group: str, components: tuple[Network | Plugin, ...]) -> None:
    """Raises ValueError on a kind that is neither ours nor installed, or lacks what it needs.

    Nothing is imported: names are looked up.
    """
    for c in components:
        if c.kind in OURS[group]:
            continue
        known = [e.name for e in entry_points(group=group)]
        if c.kind not in known:
            raise ValueError(
                f"kind is {shown(c.kind)}; allowed: {', '.join((*OURS[group], *known))}; another comes from "
                f"an installed package with an entry point of that name in the group {group}"
            )
        for module in c.needs if isinstance(c, Plugin) else ():
            if find_spec(module) is None:
                raise ValueError(
                    f"the kind {c.kind} needs the Python package {module}; install it on this machine"
                )


def make_component(group: str, policy: Any, component: Plugin) -> Any:
    """What the entry point of that kind makes of it.

    Raises:
        DeviceUnavailable: the package cannot be imported here.
        PolicyRefused: it does not take this policy.
    """
    found = [e for e in entry_points(group=group) if e.name == component.kind]
    if len(found) != 1:
        what = ", ".join(e.value for e in found) or "nothing"
        raise DeviceUnavailable(
            f"{component.kind} of the group {group} is provided by {what}; one package must provide it"
        )
    make = _imported(found[0])
    try:
        return make(policy, component, {f: policy.others[f] for f in component.files})
    except Exception as error:  # whatever somebody else's code raises
        raise PolicyRefused(
            f"{policy.folder}: {group} {component.kind} ({found[0].value}) does not take it: "
            f"{type(error).__name__}: {clipped(error)}"
        ) from None


def _imported(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except Exception as error:
        raise DeviceUnavailable(
            f"{entry.group} {entry.name} ({entry.value}) cannot be imported: {type(error).__name__}: "
            f"{clipped(error)}; repair the package that provides it"
        ) from None
