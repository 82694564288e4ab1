"""Contracts, tiny policies, fake samplers and mailboxes, and a core on a virtual clock.

`QGF_TEST_SCALE` multiplies the number of random cases (1 by default; `make test-long` sets more).
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from qgf_ros.control.core import ControlCore, TickResult
from qgf_ros.control.inference import InlineInference, Request, Result, run_sampler
from qgf_ros.control.settings import Settings, resolve
from qgf_ros.guidance.protocols import Sample
from qgf_ros.policy.description import Beta, Flow, Network, PolicyDescription, Returns, Sanity
from qgf_ros.policy.folder import Policy, write_policy
from qgf_ros.policy.tensors import network_shapes
from qgf_ros.sim.world import world_folder
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.normalizer import Normalizer

SCALE = max(1, int(os.environ.get("QGF_TEST_SCALE", "1")))
SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND

ARM_FILE = world_folder("planar_arm") / "contract.yaml"


def velocity_dict(
    period: float = 0.05, horizon: int = 5, execute: int = 5, rate: float = 80.0
) -> dict[str, Any]:
    """Two joints driven by velocity, and a goal; small enough to reason about."""
    return {
        "contract": 1,
        "robot": "test_arm",
        "time": {"period": period, "horizon": horizon, "execute_steps": execute},
        "observations": [
            {
                "name": "joints",
                "topic": "joint_states",
                "type": "sensor_msgs/JointState",
                "fields": ["position", "velocity"],
                "names": ["a", "b"],
                "max_age": 0.15,
            },
            {
                "name": "goal",
                "topic": "goal",
                "type": "geometry_msgs/PointStamped",
                "fields": ["point.x"],
                "max_age": 0.5,
            },
        ],
        "actions": [
            {
                "name": "arm",
                "topic": "commands",
                "type": "std_msgs/Float64MultiArray",
                "names": ["a", "b"],
                "representation": "velocity",
                "limits": {n: {"min": -2.0, "max": 2.0, "rate": rate} for n in "ab"},
            }
        ],
        "outcome": {"objective": "time_to_success", "assume_success": True},
    }


def position_dict(rate: float = 2.0, **time: Any) -> dict[str, Any]:
    """The same robot, driven by positions."""
    value = velocity_dict(rate=rate, **time)
    value["actions"][0]["representation"] = "absolute"
    return value


def twist_dict(rate: float = 2.0) -> dict[str, Any]:
    """A tool driven by twists, with a gripper: two actions, a pose, joints in two sources."""
    return {
        "contract": 1,
        "robot": "test_tool",
        "time": {"period": 0.05, "horizon": 5},
        "observations": [
            {
                "name": "joints",
                "topic": "joint_states",
                "type": "sensor_msgs/JointState",
                "fields": ["position"],
                "names": ["a", "b"],
                "max_age": 0.15,
            },
            {
                "name": "tool",
                "topic": "tool/pose",
                "type": "geometry_msgs/PoseStamped",
                "fields": ["pose.position.x", "pose.orientation", "pose.position.z"],
                "encoding": "rot6d",
                "max_age": 0.15,
            },
            {
                "name": "gripper",
                "topic": "gripper/joint_states",
                "type": "sensor_msgs/JointState",
                "fields": ["position"],
                "names": ["finger.left"],
                "max_age": 0.5,
            },
        ],
        "actions": [
            {
                "name": "arm",
                "topic": "servo/twist",
                "type": "geometry_msgs/TwistStamped",
                "fields": ["twist.linear.x", "twist.linear.z", "twist.angular.z"],
                "representation": "velocity",
                "space": "twist",
                "frame": "base_link",
                "limits": {
                    "twist.linear.x": {"min": -0.5, "max": 0.5, "rate": rate},
                    "twist.linear.z": {"min": -0.5, "max": 0.5, "rate": rate},
                    "twist.angular.z": {"min": -1.0, "max": 1.0, "rate": rate},
                },
            },
            {
                "name": "grip",
                "topic": "gripper/commands",
                "type": "std_msgs/Float64MultiArray",
                "names": ["finger.left"],
                "representation": "absolute",
                "space": "gripper",
                "limits": {"finger.left": {"min": 0.0, "max": 1.0, "rate": rate}},
            },
        ],
        "outcome": {"objective": "time_to_success", "assume_success": True},
    }


def contract(value: dict[str, Any] | None = None, **changes: Any) -> Contract:
    return Contract.from_dict(copy.deepcopy(value or velocity_dict(**changes)))


def description(own: Contract, **changes: Any) -> PolicyDescription:
    """Normalised numbers are the robot's numbers: nothing is scaled."""
    obs, act = len(own.observation_names), len(own.action_names)
    fields: dict[str, Any] = {
        "schema": 1,
        "name": "tiny",
        "contract": own.to_dict(),
        "flow": Flow(4),
        "velocity": Network("velocity.safetensors", (32, 32)),
        "critic": Network("critic.safetensors", (32, 32), members=2),
        "normalizer": {
            "obs_mean": (0.0,) * obs,
            "obs_std": (1.0,) * obs,
            "action_center": (0.0,) * act,
            "action_half_range": (1.0,) * act,
        },
        "returns": Returns("time_to_success", 0.99, 1.0),
        "beta": Beta(0.1, 0.01, (0.05, 0.1)),
        "sanity": Sanity(-10.0, 10.0, 1000.0),
    }
    return PolicyDescription(**(fields | changes))


def tensors(own: Contract, d: PolicyDescription, seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """Random weights of the shapes that a description implies."""
    rng = np.random.default_rng(seed)
    obs, flat = len(own.observation_names), len(own.action_names) * own.time.horizon
    velocity = network_shapes(d.velocity, obs + flat + 16, flat, norm_last=False)
    velocity["time_embedding"] = (d.flow.denoise_steps, 16)
    critic = network_shapes(d.critic, obs + flat, 1, norm_last=True)

    def make(shapes):
        return {k: (0.1 * rng.standard_normal(s)).astype(np.float32) for k, s in shapes.items()}

    return {d.velocity.file: make(velocity), d.critic.file: make(critic)}


def write_tiny(folder: Path, own: Contract | None = None, seed: int = 0, **changes: Any) -> str:
    """Writes a 2x32 policy with random weights; returns its id."""
    own = own or contract()
    d = description(own, **changes)
    return write_policy(folder, d, tensors(own, d, seed))


def edit(folder: Path, *path: str | int, value: Any) -> None:
    """Changes one place of policy.yaml and signs the folder again."""
    file = folder / "policy.yaml"
    content = at = yaml.safe_load(file.read_text())
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    file.write_text(yaml.safe_dump(content))
    resign(folder)


def resign(folder: Path) -> None:
    """Makes SHA256SUMS agree with the files again: what is refused then is refused for its content."""
    files = sorted(p for p in folder.iterdir() if p.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in files]
    (folder / "SHA256SUMS").write_text("".join(lines))


def negate(folder: Path) -> None:
    """Makes sampler.onnx answer the opposite of every action, and signs the folder again."""
    import onnx

    model = onnx.load(folder / "sampler.onnx")
    for name in ("action", "action_unguided"):
        for node in model.graph.node:
            for links in (node.input, node.output):
                links[:] = [f"{name}_before" if link == name else link for link in links]
        model.graph.node.append(onnx.helper.make_node("Neg", [f"{name}_before"], [name]))
    onnx.save(model, folder / "sampler.onnx")
    resign(folder)


def policy_in_memory(own: Contract, **changes: Any) -> Policy:
    """A policy for a fake sampler: no weights, no disk."""
    d = description(own, **changes)
    normalizer = Normalizer.from_dict({k: list(v) for k, v in d.normalizer.items()})
    return Policy(Path("tiny"), "0" * 64, d, own, normalizer, {}, {}, None)


def sample_of(action: np.ndarray, unguided: np.ndarray | None = None, **changes: Any) -> Sample:
    """A sample that is all well, unless told otherwise."""
    n = len(action)
    fields = {
        "action": action,
        "q": np.zeros(n, np.float32),
        "action_unguided": action if unguided is None else unguided,
        "q_unguided": np.zeros(n, np.float32),
        "q_std": np.zeros(n, np.float32),
        "gradient_norm": np.ones(n, np.float32),
        "guidance_ratio": np.ones(n, np.float32),
    }
    return Sample(**(fields | changes))


class FakeSampler:
    """Answers with clip(noise + obs-dependent shift) unless a plan says otherwise; remembers calls.

    `plan` is called with the number of the call and the honest sample, and gives what to return;
    it may raise.
    """

    backend, device = "fake", "cpu"

    def __init__(self, plan: Callable[[int, Sample], Any] | None = None) -> None:
        self.plan = plan
        self.calls: list[tuple[np.ndarray, np.ndarray, float]] = []

    def __call__(
        self,
        obs: np.ndarray,
        noise: np.ndarray,
        weight: float,
        guards: Any = None,
        committed: Any = None,
    ) -> Any:
        self.calls.append((obs.copy(), noise.copy(), weight))
        unguided = np.clip(0.3 * noise + 0.1 * np.tanh(obs).sum(), -1, 1).astype(np.float32)
        guided = np.clip(unguided + 0.01 * min(weight, 10.0), -1, 1).astype(np.float32)
        honest = sample_of(guided, unguided)
        return self.plan(len(self.calls) - 1, honest) if self.plan else honest


def constant(values: Any) -> Callable[[int, Sample], Sample]:
    """A plan: every action of every chunk is `values` (A,)."""

    def plan(_: int, honest: Sample) -> Sample:
        row = np.tile(np.asarray(values, np.float32), honest.action.shape[1] // len(values))
        return sample_of(np.tile(row, (len(honest.action), 1)))

    return plan


class LateInference:
    """A mailbox on virtual time: request i is done `delays(i)` ticks after it began (0: in the same
    tick, None: never). Like the thread: one request at work, one waiting, the newest result wins.
    """

    def __init__(self, sampler: FakeSampler, delays: Callable[[int], int | None]) -> None:
        self.sampler, self.delays = sampler, delays
        self.requests: list[Request] = []
        self._ticks = 0
        self._begun = 0
        self._waiting: Request | None = None
        self._at_work: tuple[Request, float] | None = None
        self._done: Result | None = None

    def submit(self, request: Request) -> None:
        self._waiting = request
        self.requests.append(request)
        self._work()

    def poll(self, timeout: float) -> Result | None:
        result, self._done = self._done, None
        return result

    def swap(self, sampler: Any) -> None:
        """What was asked of the sampler before is dropped, as by the thread."""
        self.sampler, self._waiting, self._at_work, self._done = sampler, None, None, None

    def close(self) -> None:
        pass

    def advance(self) -> None:
        """One tick has passed."""
        self._ticks += 1
        self._work()

    def _work(self) -> None:
        while True:
            if self._at_work is None and self._waiting is not None:
                delay = self.delays(self._begun)
                self._begun += 1
                self._at_work = (
                    self._waiting,
                    float("inf") if delay is None else self._ticks + delay,
                )
                self._waiting = None
            if self._at_work is None or self._at_work[1] > self._ticks:
                return
            self._done, self._at_work = run_sampler(self.sampler, self._at_work[0]), None


class Spy(InlineInference):
    """Inline sampling that keeps the requests."""

    def __init__(self, sampler: Any) -> None:
        super().__init__(sampler)
        self.requests: list[Request] = []

    def submit(self, request: Request) -> None:
        self.requests.append(request)
        super().submit(request)


@dataclasses.dataclass
class Sent:
    """One thing that reached the robot."""

    at: int
    values: np.ndarray
    admitted: bool


def settings(policy: Policy, **own: Any) -> Settings:
    """The defaults but for what is given, which nobody checks; beta is not slewed."""
    return dataclasses.replace(resolve({"guidance.slew": 0.0}, policy), **own)


class Rig:
    """A core on a virtual clock, fed with fresh state, and a record of all it sends."""

    def __init__(
        self,
        own: Contract | None = None,
        plan: Any = None,
        inference: Any = None,
        policy: Policy | None = None,
        **core: Any,
    ) -> None:
        self.contract = own or contract()
        self.sampler = FakeSampler(plan)
        self.inference = inference(self.sampler) if inference else Spy(self.sampler)
        self.policy = policy or policy_in_memory(self.contract)
        own_settings = {k: core.pop(k) for k in Settings.__dataclass_fields__ if k in core}
        self.core = ControlCore(
            self.policy, self.inference, settings(self.policy, **own_settings),
            **({"enabled": True} | core),
        )  # fmt: skip
        self.period = round(self.contract.time.period * SECOND)
        self.now = START
        self.sent: list[Sent] = []
        self.ticks: list[TickResult] = []
        self.state = {  # zeros, and upright
            o.name: np.array([float(n.endswith("orientation.w")) for n in o.labels])
            for o in self.contract.observations
        }

    def feed(self, skip: tuple[str, ...] = ()) -> None:
        for name, values in self.state.items():
            if name not in skip:
                self.core.assembler.push(name, self.now, self.now, values.copy())

    def set(self, **changed: Any) -> None:
        self.core.apply(dataclasses.replace(self.core.settings, **changed))

    def swap(self, policy: Policy, sampler: Any = None, **changed: Any) -> None:
        """Another policy, with these settings, else as they are."""
        checks = settings(policy).checks
        now = dataclasses.replace(self.core.settings, **{"checks": checks} | changed)
        self.core.swap(policy, sampler or FakeSampler(), now)

    def step(self, count: int = 1, skip: tuple[str, ...] = ()) -> TickResult:
        """`count` periods: state arrives (but for `skip`), then the tick."""
        for _ in range(count):
            self.feed(skip)
            result = self.core.tick(self.now)
            self.ticks.append(result)
            if result.output.values is not None:
                self.sent.append(Sent(self.now, result.output.values, result.output.admitted))
            self.now += self.period
            if isinstance(self.inference, LateInference):
                self.inference.advance()
        return self.ticks[-1]

    @property
    def log(self) -> np.ndarray:
        return np.array([[s.at, *s.values] for s in self.sent])
