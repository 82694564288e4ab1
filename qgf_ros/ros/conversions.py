"""Core structures to ROS messages. The only file that imports our own message types."""

from __future__ import annotations

import importlib
import math
from array import array
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
from ament_index_python.resources import get_resource, has_resource
from builtin_interfaces.msg import Time
from std_msgs.msg import Header

from qgf_ros.control.core import ControlCore, TickResult
from qgf_ros.control.gate import Candidate
from qgf_ros.control.reasons import Problem
from qgf_ros.control.supervisor import State
from qgf_ros.errors import UsageError, exit_codes
from qgf_ros.guidance.protocols import Sampler
from qgf_ros.policy.folder import Policy
from qgf_ros.spaces.actions.spec import ActionSpec
from qgf_ros.spaces.messages import message_type

try:
    from qgf_ros.msg import Command, GateStatus, PolicyInfo, QValues, Status, Tick
    from qgf_ros.srv import LoadPolicy  # noqa: F401  (for the service)
except ImportError as error:
    with exit_codes():  # only executables import this: end as they end, without a traceback
        raise UsageError(
            f"the compiled messages are not there ({error}); run `colcon build` and source install/setup.bash"
        ) from None

NANOSECONDS = 1_000_000_000
# Numbers of Status.msg that a gate has none of.
OF_A_NODE = ("beta", "state_score", "inference_p50_ms", "inference_p99_ms", "inference_max_ms")
EARLIEST, LATEST = -(2**31) * NANOSECONDS, 2**31 * NANOSECONDS - 1  # ns, of builtin_interfaces/Time


@cache
def ros_type(name: str) -> Any:
    """The rclpy class of "package/Type". Raises UsageError where it is not installed."""
    package, short = name.split("/")
    # The index first: a contract must not make any package run that is no ROS interface.
    known = has_resource("rosidl_interfaces", package)
    if not known or f"msg/{short}.idl" not in get_resource("rosidl_interfaces", package)[0].split():
        raise UsageError(
            f"the contract names the message type {name}, which is not installed here; install "
            f"{package}, or source the workspace that has it"
        )
    return getattr(importlib.import_module(f"{package}.msg"), short)


def make(type_name: str, **fields: Any) -> Any:
    """Factory for `qgf_ros.spaces.messages`. rclpy wants lists or array.array where numpy has other dtypes."""
    return ros_type(type_name)(
        **{k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in fields.items()}
    )


def make_image(type_name: str, data: np.ndarray, **fields: Any) -> Any:
    """As `make`, for a message with many bytes, which as a list would take a millisecond per 100 kB."""
    msg = ros_type(type_name)(**fields)
    msg.data = array("B", data.tobytes())
    return msg


def ros_time(nanoseconds: int) -> Time:
    """What lies beyond the message's range, as a clock that is sent nonsense may, is its end."""
    nanoseconds = min(max(nanoseconds, EARLIEST), LATEST)
    return Time(sec=nanoseconds // NANOSECONDS, nanosec=nanoseconds % NANOSECONDS)


def header(nanoseconds: int, frame: str = "") -> Header:
    return Header(stamp=ros_time(nanoseconds), frame_id=frame)


def command_message(c: Candidate) -> Command:
    return Command(
        header=header(c.stamp),
        owner=c.owner,
        sequence=c.sequence,
        epoch=c.epoch,
        execute_at=ros_time(c.execute_at),
        deadline=ros_time(c.deadline),
        names=list(c.names),
        values=c.values.tolist(),
    )


def nanoseconds(time: Time) -> int:
    return time.sec * NANOSECONDS + time.nanosec


def candidate(msg: Command) -> Candidate:
    """What a message says, unchecked: the gate judges it."""
    return Candidate(
        owner=msg.owner,
        sequence=msg.sequence,
        epoch=msg.epoch,
        stamp=nanoseconds(msg.header.stamp),
        execute_at=nanoseconds(msg.execute_at),
        deadline=nanoseconds(msg.deadline),
        names=tuple(msg.names),
        values=np.array(msg.values, dtype=np.float64),
    )


def action_message(spec: ActionSpec, values: np.ndarray, now: int, period: float) -> Any:
    """One action entry's numbers as the robot's own message. `period` [s] of control."""
    kind = message_type(spec.type)
    head = header(kind.command_stamp(now), spec.frame) if kind.stamped else None
    return spec.encode(make, values, head, period)


def q_message(result: TickResult, now: int) -> QValues:
    """Only for a tick that adopted a new chunk."""
    s = result.sampled
    assert s is not None
    return QValues(
        header=header(now),
        observation_stamp=ros_time(s.stamp),
        sequence=s.chunk.sequence,
        epoch=s.chunk.epoch,
        beta=s.beta,
        q_sampled=s.q,
        q_unguided=s.q_unguided,
        q_gain=s.q - s.q_unguided,
        ensemble_spread=s.q_std,
        gradient_norm=s.gradient_norm,
        guidance_ratio=s.guidance_ratio,
        share_clipped=s.share_clipped,
        guards=list(s.guards),
        seam_jump=s.seam_jump,
        share_executed=s.share_executed,
        inference_ms=s.inference_seconds * 1e3,
        tick_ms=result.seconds * 1e3,
        observation_age=s.age,
        state=result.state.name,
    )


def tick_message(core: ControlCore, result: TickResult, now: int) -> Tick:
    """The tick at `now` [ns] as a replay needs it."""
    contract = core.policy.contract
    sent = result.output.values
    return Tick(
        header=header(now),
        tick=core.ticks,
        state=int(result.state),
        epoch=core.epoch,
        beta=core.beta,
        chunk=core.samples,
        topics=[o.topic for o in contract.observations],
        stamps=[ros_time(stamp) for stamp in result.stamps],
        names=list(contract.action_names),
        values=[] if sent is None else sent.tolist(),
    )


def policy_message(policy: Policy, sampler: Sampler) -> PolicyInfo:
    d, time = policy.description, policy.contract.time
    return PolicyInfo(
        name=policy.name,
        sha256=policy.sha256,
        robot=policy.contract.robot,
        objective=d.returns.objective,
        backend=sampler.backend,
        device=sampler.device,
        backend_details=sampler.details,
        backend_note=sampler.note,
        period=time.period,
        horizon=time.horizon,
        execute_steps=time.execute_steps,
        denoise_steps=d.flow.denoise_steps,
        beta_default=d.beta.default,
        beta_min=d.beta.min,
        beta_suggested=list(d.beta.suggested),
        observation_names=list(policy.contract.observation_names),
        action_names=list(policy.contract.action_names),
        description=d.description,
    )


def status_message(
    now: int,
    owner: str,
    state: State,
    reason: Problem | None,
    noted: Iterable[Problem],
    **fields: Any,
) -> Status:
    """noted: the warnings. fields: the others of Status.msg."""
    return Status(owner=owner, **_said(now, state, reason, noted), **fields)


def gate_status_message(
    now: int,
    gate: str,
    state: State,
    reason: Problem | None,
    noted: Iterable[Problem],
    **fields: Any,
) -> GateStatus:
    """noted: the warnings. fields: the others of GateStatus.msg."""
    return GateStatus(gate=gate, **_said(now, state, reason, noted), **fields)


def _said(
    now: int, state: State, reason: Problem | None, noted: Iterable[Problem]
) -> dict[str, Any]:
    """What both kinds of a status have in common."""
    return {
        "header": header(now),
        "state": int(state),
        "reason": reason.code_text if reason else "",
        "detail": reason.detail if reason else "",
        "warnings": [str(problem) for problem in noted],
    }


def as_status(gate: GateStatus) -> Status:
    """The same in the words of a node's status, for recorded bags and whoever reads them: what only a
    node has is NaN."""
    return Status(
        header=gate.header,
        owner=gate.gate,
        state=gate.state,
        reason=gate.reason,
        detail=gate.detail,
        warnings=gate.warnings,
        enabled=gate.commanding != "",
        tick=gate.commands,
        sequence=gate.sequence,
        epoch=gate.epoch,
        policy_sha256=gate.policy_sha256,
        topics=[f"{owner}/command" for owner in gate.owners],
        topic_age=gate.owner_age,
        achieved_rate=gate.achieved_rate,
        overruns=gate.pauses,
        dropped=gate.refused,
        limit_hits=gate.limited,
        **dict.fromkeys(OF_A_NODE, math.nan),
    )
