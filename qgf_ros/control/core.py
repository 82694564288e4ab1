"""The control core: one tick from buffered messages to a command.

The node, the simulation, replay and tests all call this one; only clock and transport differ.
Nothing here reads a clock, but to time itself: `now` comes in.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from qgf_ros.control.assembler import Assembler, Observation, Problem
from qgf_ros.control.gate import Candidate, Gate, Output
from qgf_ros.control.inference import Inference, Request, Result
from qgf_ros.control.latency import Latency
from qgf_ros.control.supervisor import DISABLED, State, Supervisor
from qgf_ros.policy import Policy
from qgf_ros.sampler.base import Sample

MAX_REUSE = 2  # ticks the last action may be repeated while the next chunk is late
DEADLINE_PERIODS = 2  # a candidate is worthless after so many periods
SATURATED = 1 - 1e-6  # a normalised number beyond this sits at its edge


@dataclass
class Tuning:
    """What may change while the robot runs. Read once per sample."""

    beta: float
    num_candidates: int = 1

    @property
    def weight(self) -> float:
        """w = 1 / beta; 0 at infinity. The only place where beta becomes w."""
        return 1.0 / self.beta


@dataclass(frozen=True)
class Chunk:
    """H actions; action i is executed at start + i * period (the time law)."""

    start: int  # ns
    actions: np.ndarray  # (H, A) robot units
    epoch: int
    sequence: int

    def index(self, now: int, period: int) -> int:
        """Which action belongs to `now`; outside 0..H-1 none does."""
        return (now - self.start + period // 2) // period


@dataclass(frozen=True)
class Sampled:
    """A new chunk and what the critic says about it; see QValues.msg."""

    chunk: Chunk
    stamp: int  # ns, of the observation
    beta: float
    q: float
    q_unguided: float
    q_std: float
    gradient_norm: float
    guidance_ratio: float
    share_clipped: float
    guards: tuple[str, ...]
    share_executed: float  # of the chunk before
    inference_seconds: float
    age: float


@dataclass(frozen=True)
class TickResult:
    """What a tick decided."""

    state: State
    reason: Problem | None
    candidate: Candidate | None
    output: Output
    sampled: Sampled | None
    seconds: float  # the tick took


class ControlCore:
    """All control logic of one policy on one robot."""

    def __init__(
        self,
        policy: Policy,
        inference: Inference,
        *,
        owner: str = "qgf",
        seed: int = 0,
        enabled: bool = False,
        beta: float | None = None,
        num_candidates: int = 1,
        wait: float = 0.5,
    ) -> None:
        """
        Args:
            seed: of the noise, which is a function of (seed, observation stamp).
            beta: temperature; None: the policy's default.
            wait: share of a period that a tick waits for its own sample before it goes on without.
        """
        contract = policy.contract
        self.policy = policy
        self.assembler = Assembler(contract)
        self.supervisor = Supervisor(enabled)
        self.gate = Gate(contract)
        self.tuning = Tuning(
            policy.description.beta.default if beta is None else beta, num_candidates
        )
        self.inference_latency = Latency()
        self.overruns = 0
        self.ticks = 0
        self.sequence = 0
        self._inference = inference
        self._owner = owner
        self._seed = seed
        self._period = round(contract.time.period * 1e9)
        self._wait = wait * contract.time.period
        self._execute_steps = contract.time.execute_steps
        self._names = contract.action_names
        self._measured = _measured_positions(policy)
        self._estop: Problem | None = None
        self.epoch = 0
        self._begin_epoch(None)

    # What the outside does to the core. Called from other threads: each is one assignment.

    def enable(self, on: bool) -> str:
        """Answers why not, or ""."""
        return self.supervisor.enable(on)

    def reset(self) -> None:
        """Clears FAULT and HOLD; the robot has to be enabled again."""
        self._estop = None
        self.supervisor.reset()

    def estop(self) -> None:
        """Latches FAULT at the next tick. Only `reset` releases it."""
        self._estop = Problem("ESTOP", "emergency stop was pressed; release it, then call ~/reset")

    def clock_jumped(self) -> None:
        """The control clock went back: what was buffered belongs to another time."""
        self.assembler.clear()
        self.supervisor.interrupt(
            Problem("CLOCK_JUMP", "the clock went back; waiting for fresh state")
        )

    def close(self) -> None:
        """Releases the sampler's thread."""
        self._inference.close()

    # The tick.

    def tick(self, now: int) -> TickResult:
        """One control period at `now` [ns on the control clock]."""
        began = time.perf_counter()
        self.ticks += 1
        if self._estop is not None:
            self.supervisor.fault(self._estop)
        observation = self.assembler.assemble(now)
        problem = observation if isinstance(observation, Problem) else None
        if problem is None and self.supervisor.state is State.RUN and not self.supervisor.enabled:
            problem = DISABLED
        was_running = self.supervisor.state is State.RUN
        state = self.supervisor.update(now, problem)
        sampled, candidate = None, None
        if state is State.RUN and isinstance(observation, Observation):
            if not was_running:
                self._begin_epoch(observation)
            sampled, candidate, problem = self._act(now, observation)
            if problem is not None:
                state = self.supervisor.update(now, problem)
        output = self.gate.step(now, candidate)
        return TickResult(
            state, self.supervisor.reason, candidate, output, sampled, time.perf_counter() - began
        )

    def _begin_epoch(self, observation: Observation | None) -> None:
        """Everything sampled before is void; the gate starts from the measured state."""
        self.epoch += 1
        self._chunk: Chunk | None = None
        self._pending: int | None = None  # start of the request that is being sampled
        self._executed = 0
        self._reused = 0
        self._last: np.ndarray | None = None
        measured = None
        if observation is not None:
            padded = np.append(observation.vector, np.nan)
            measured = padded[self._measured]
        self.gate.reset(self.epoch, measured)

    def _act(
        self, now: int, observation: Observation
    ) -> tuple[Sampled | None, Candidate | None, Problem | None]:
        """A candidate for this tick: from the current chunk, a new one, or the last action again."""
        sampled, problem = None, None
        if self._exhausted(now):
            if self._pending is None:
                self._request(now, observation)
            sampled, problem = self._receive(now)
        values = self._scheduled(now)
        if values is not None:
            self._executed += 1
            self._reused = 0
        elif problem is None:
            self.overruns += 1
            self._reused += 1
            values = self._last
            if values is None and self._reused <= MAX_REUSE:
                return sampled, None, None  # the first sample of an epoch may take a moment
            if self._reused > MAX_REUSE:
                return (
                    sampled,
                    None,
                    Problem(
                        "OVERRUN",
                        f"no action for {self._reused} ticks: sampling is slower than the period",
                    ),
                )
        if values is None:
            return sampled, None, problem
        self._last = values
        self.sequence += 1
        deadline = now + DEADLINE_PERIODS * self._period
        candidate = Candidate(
            self._owner,
            self.sequence,
            self.epoch,
            observation.stamp,
            now,
            deadline,
            self._names,
            values,
        )
        return sampled, candidate, problem

    def _exhausted(self, now: int) -> bool:
        return self._chunk is None or self._chunk.index(now, self._period) >= self._execute_steps

    def _scheduled(self, now: int) -> np.ndarray | None:
        """The chunk's action for `now`. A chunk that is late goes on to its end (H, not execute_steps)."""
        if self._chunk is None:
            return None
        index = self._chunk.index(now, self._period)
        return self._chunk.actions[index] if 0 <= index < len(self._chunk.actions) else None

    def _request(self, now: int, observation: Observation) -> None:
        beta = self.tuning.beta
        noise = draw_noise(
            self._seed, observation.stamp, self.tuning.num_candidates, self.policy.flat_dim
        )
        obs = self.policy.normalizer.normalize_obs(observation.vector)
        weight = Tuning(beta).weight
        self._pending = now
        self._inference.submit(
            Request(obs, noise, weight, now, observation.stamp, self.epoch, beta, observation.age)
        )

    def _receive(self, now: int) -> tuple[Sampled | None, Problem | None]:
        """Takes a finished sample, waiting a share of the period for it; a stale one is dropped."""
        result = self._inference.poll(self._wait)
        if result is None:
            return None, None
        self._pending = None
        self.inference_latency.add(result.seconds)
        if result.request.epoch != self.epoch:
            return None, None
        if result.sample is None:
            return None, Problem("INFERENCE", f"the sampler failed: {result.error}")
        return self._adopt(result, result.sample)

    def _adopt(self, result: Result, sample: Sample) -> tuple[Sampled | None, Problem | None]:
        guided, q, guards = self._trusted(sample)
        if guided.shape != (len(sample.q), self.policy.flat_dim):
            return None, Problem("ACTION_SCHEMA", f"the sampler gave {guided.shape}")
        finite = np.isfinite(guided).all(axis=1) & np.isfinite(q)
        if not finite.any():
            return None, Problem("ACTION_NONFINITE", "the sampler gave no finite action")
        best = int(np.argmax(np.where(finite, q, -np.inf)))
        flat = guided[best].reshape(self.policy.horizon, self.policy.action_dim)
        previous = self._chunk
        share = self._executed / len(previous.actions) if previous else float("nan")
        self._executed = 0
        sequence = previous.sequence + 1 if previous else 1
        request = result.request
        self._chunk = Chunk(
            request.start, self.policy.normalizer.unnormalize_action(flat), request.epoch, sequence
        )
        return Sampled(
            chunk=self._chunk,
            stamp=request.stamp,
            beta=request.beta,
            q=float(q[best]),
            q_unguided=float(sample.q_unguided[best]),
            q_std=float(sample.q_std[best]),
            gradient_norm=float(sample.gradient_norm[best]),
            guidance_ratio=float(sample.guidance_ratio[best]),
            share_clipped=float(np.mean(np.abs(flat) >= SATURATED)),
            guards=guards,
            share_executed=share,
            inference_seconds=result.seconds,
            age=request.age,
        ), None

    def _trusted(self, sample: Sample) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
        """Candidates with Q or gradient beyond the policy's sanity bounds fall back to the unguided
        action from the same noise; the critic has no say about those."""
        sanity = self.policy.description.sanity
        sane = np.isfinite(sample.q) & (sample.q >= sanity.q_low) & (sample.q <= sanity.q_high)
        sane &= np.isfinite(sample.gradient_norm) & (sample.gradient_norm <= sanity.gradient_norm)
        sane &= np.isfinite(sample.action).all(axis=-1)
        if sane.all():
            return sample.action, sample.q, ()
        action = np.where(sane[:, None], sample.action, sample.action_unguided)
        q = np.where(
            sane,
            sample.q,
            np.where(np.isfinite(sample.q_unguided), sample.q_unguided, sanity.q_low),
        )
        return action, q, ("q_invalid",)


def draw_noise(seed: int, stamp: int, candidates: int, size: int) -> np.ndarray:
    """(N, D) float32 ~ N(0, I), a function of (seed, observation stamp) alone, so that a replay
    samples what the robot sampled. The first rows do not depend on how many there are."""
    return np.random.default_rng([seed, stamp]).standard_normal(
        (candidates, size), dtype=np.float32
    )


def _measured_positions(policy: Policy) -> np.ndarray:
    """Index into [observation, NaN] of the measured position of each command, by name."""
    contract = policy.contract
    observed = {}
    for at, (source, label) in enumerate(
        (o, label) for o in contract.observations for label in o.labels
    ):
        if source.type == "sensor_msgs/JointState" and label.startswith("position."):
            observed[label.removeprefix("position.")] = at
    nowhere = len(contract.observation_names)
    return np.array(
        [observed.get(name.split(".", 1)[1], nowhere) for name in contract.action_names]
    )
