"""The one table of settings, the check of a value, and what a policy makes of them.

The node declares its parameters from the table, `config/default.yaml` and the README's table are held
to it, and a replay reads the node's parameter file by it. `read` brings what somebody has given into
the table's types and ranges; `resolve` makes of that the `Settings` of a core with one policy.

A value that nobody has set, and that has no default, is None here. ROS has no such value: there it is
NaN for a number and "" for a text, see `Spec.shown`. An infinite bound is a bound that nothing reaches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qgf_ros.control.checks import CHECKS
from qgf_ros.control.checks.base import StateCheck
from qgf_ros.control.spec import TINY, Spec
from qgf_ros.errors import UsageError
from qgf_ros.guidance.guards import guards_of
from qgf_ros.guidance.protocols import DEVICES, PRECISIONS, Guards
from qgf_ros.guidance.registry import backend_names
from qgf_ros.policy.folder import Policy

TABLE = (
    Spec("policy", str, None, "Policy folder, or the name of a shipped policy (planar_arm, ur5e_cube)."),
    Spec("policies", str, None, "Folder whose policies ~/load_policy loads by name. Unset: the one that `policy` "
         "is in."),
    Spec("autostart", bool, True, "Configure and activate at start; otherwise a lifecycle manager does."),
    Spec("enable_on_start", bool, False, "Move without waiting for ~/enable. Only for simulation."),
    Spec("exit_with_parent", bool, False, "End when the process that started this one dies, as with a killed "
         "launch."),
    Spec("gate", str, "inside", "Who publishes on the robot's topics: this node, or qgf_gate (outside) from "
         "~/command.", choices=("inside", "outside")),
    Spec("estop_required", bool, False, "FAULT, and no motion at start, without somebody who publishes ~/estop."),
    Spec("estop_timeout", float, 0.0, "FAULT where ~/estop, a heartbeat, is silent for so long, and no motion "
         "before it is heard; 0: never. Of qgf_gate too.", "s", 0.0, 60.0),
    *(setting for check in CHECKS for setting in check.settings),
    Spec("hold_if_frozen", bool, False, "HOLD, not a warning alone, where a sensor repeats itself in motion."),
    Spec("real_time_chunking", bool, False, "Sample while the last chunk goes on, its committed actions held "
         "fixed.", unrepeatable="when it asks for a chunk depends on measured latency"),
    Spec("blend_steps", int, 0, "Actions over which a new chunk takes over from the last; 0: at once.", "", 0, 64),
    Spec("backend", str, "auto", "What runs the sampler; auto: native on the CPU, onnx on CUDA.",
         choices=backend_names()),
    Spec("device", str, "auto", "Where: auto takes CUDA if a session really runs on it.", choices=DEVICES),
    Spec("precision", str, "float32", "Of the sampler's weights; float16: native only, and where `qgf export` found "
         "it close enough.", choices=PRECISIONS),
    Spec("threads", int, 1, "Threads of onnx and torch; native has one. More than one is slower on a busy machine.",
         "", 1, 64),
    Spec("seed", int, 0, "Of the sampler's noise, which depends on it and the observation's stamp alone.",
         "", 0, 2**31),
    Spec("beta", float, None, "Temperature of the guidance: smaller guides harder, inf is the unguided policy. "
         "Unset: the policy's default; never below the policy's floor.", "return scale", TINY, math.inf, live=True),
    Spec("num_candidates", int, 1, "Candidates per sample; the one with the largest Q is executed.",
         "", 1, 64, live=True),
    Spec("guidance.slew", float, 0.5, "Time in which the guidance weight crosses its whole range, 0 to 1/floor; 0: at "
         "once.", "s", 0.0, 60.0, live=True),
    Spec("guidance.support", bool, False, "Drop what of the gradient leads further out of the data's range.",
         live=True),
    Spec("guidance.disagreement", float, math.inf, "No guidance where the critics' Q have a larger standard "
         "deviation.", "return scale", 0.0, math.inf, live=True),
    Spec("guidance.skip_first", int, 0, "Denoising steps from the noise on without guidance.", "", 0, 999, live=True),
    Spec("guidance.last", int, 0, "Guidance in the last so many denoising steps only; 0: in all.",
         "", 0, 1000, live=True),
    Spec("guidance.only", str, None, "Names of the numbers that are guided (arm.a,arm.b); unset: all.", live=True),
    Spec("guidance.ratio_cap", float, math.inf, "Largest guidance of a denoising step, relative to the flow's "
         "velocity.", "", 0.0, math.inf, live=True),
    Spec("guidance.keep_best", bool, False, "The unguided sample where the guided one's Q is not larger.", live=True),
    Spec("limits_scale", float, 1.0, "Tightens the contract's limits of velocity and rate.",
         "", 0.01, 1.0, live=True),
)  # fmt: skip
BY_NAME = {spec.name: spec for spec in TABLE}
DEFAULTS: Mapping[str, Any] = {spec.name: spec.default for spec in TABLE}
OF_ROS = ("use_sim_time", "start_type_description_service")  # any node has these
OF_ROS_PREFIX = "qos_overrides."


def read(
    given: Mapping[str, Any], table: Iterable[Spec] = TABLE, foreign: Iterable[str] = ()
) -> dict[str, Any]:
    """The value of every setting of the table: what was given, in its type, else the default.

    Args:
        given: by name; None is not set.
        foreign: names of another node's settings, passed over in a file that both read.

    Raises:
        UsageError: a setting that there is not, or a value that it cannot have.
    """
    by_name = {spec.name: spec for spec in table}
    unknown = set(given) - by_name.keys() - set(OF_ROS) - set(foreign)
    unknown = {name for name in unknown if not name.startswith(OF_ROS_PREFIX)}
    if unknown:
        raise UsageError(
            f"unknown parameters {', '.join(sorted(unknown))}; known: {', '.join(by_name)}"
        )
    return {
        name: spec.default if (value := given.get(name)) is None else spec.checked(value)
        for name, spec in by_name.items()
    }


@dataclass(frozen=True)
class Settings:
    """All that a control core needs to know beside its policy, which it was resolved with. A field is
    the setting of its name, but for those that `resolve` makes."""

    beta: float  # temperature [return scale], from the policy's floor on; inf: unguided
    seed: int
    num_candidates: int
    slew: float  # s in which the guidance weight crosses its whole range; 0: at once
    guards: Guards
    limits_scale: float
    hold_if_frozen: bool
    blend_steps: int  # actions
    real_time_chunking: bool
    # Of every state, in this order. What they were made of is in the table of settings.
    checks: tuple[StateCheck, ...] = field(compare=False)


def resolve(given: Mapping[str, Any], policy: Policy, fall_back: bool = False) -> Settings:
    """What the settings are with this policy.

    Args:
        given: by name, each in its range; what is left out is at its default.
        fall_back: where beta lies below the policy's floor, it is the policy's default.

    Raises:
        UsageError: together, or with this policy, they mean nothing.
    """
    values, bounds = {**DEFAULTS, **given}, policy.description.beta
    beta = values["beta"]
    if beta is None or (fall_back and beta < bounds.min):
        beta = bounds.default
    else:
        beta = BY_NAME["beta"].checked(beta, bounds.min)
    if values["real_time_chunking"] and policy.horizon < 2:
        raise UsageError(
            "real_time_chunking is on, and the policy's chunks have 1 action, so that none is left "
            "while the next chunk is sampled; it needs 2 or more: switch it off"
        )
    fields = {name: values[name] for name in Settings.__dataclass_fields__ if name in values}
    fields |= {
        "beta": beta,
        "slew": values["guidance.slew"],
        "guards": guards_of(values, policy),
        "checks": tuple(filter(None, (check.of(values, policy) for check in CHECKS))),
    }
    return Settings(**fields)
