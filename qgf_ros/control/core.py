"""The control core: one tick from buffered messages to a command.

The node, the simulation and tests all call this one; only clock and transport differ.
Nothing here reads a clock, but to time itself: `now` comes in.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from dataclasses import dataclass

import numpy as np

from qgf_ros.control.assembler import Assembler, Observation, Problem
from qgf_ros.control.chunk import Chunk, Sampled, choose, draw_noise
from qgf_ros.control.gate import Candidate, Gate, Output
from qgf_ros.control.inference import Inference, Request, Result
from qgf_ros.control.latency import Latency
from qgf_ros.control.supervisor import DISABLED, State, Supervisor
from qgf_ros.policy import Policy
from qgf_ros.sampler.base import UNGUARDED, Guards

MAX_REUSE = 2  # ticks the last action may be repeated while the next chunk is late
DEADLINE_PERIODS = 2  # a candidate is worthless after so many periods
HUNG = 1.0  # s without an answer of the sampler: it will not come
FAILURES, FAILURES_WITHIN = 3, 10.0  # of the sampler, s: then it is a FAULT


@dataclass
class Tuning:
    """What may change while the robot runs. Read once per sample."""

    beta: float
    num_candidates: int = 1
    guards: Guards = UNGUARDED


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
    """All control logic of one policy on one robot.

    `tick` belongs to one thread; the other methods may be called from another.
    """

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
        self.gate.expect(*policy.normalizer.action_bounds(*contract.limits[:2]))
        self.tuning = Tuning(
            policy.description.beta.default if beta is None else beta, num_candidates
        )
        self.inference_latency = Latency()
        self.overruns = 0
        self.ticks = 0
        self.sequence = 0
        self.samples = 0
        self._inference = inference
        self._owner = owner
        self._seed = seed
        self._period = round(contract.time.period * 1e9)
        self._wait = wait * contract.time.period
        self._execute_steps = contract.time.execute_steps
        self._names = contract.action_names
        self._measured = contract.measured_positions  # index into [observation, NaN]
        self._estop: Problem | None = None
        self._pending: int | None = None  # start of the request that is being sampled
        self._pending_ticks = 0
        self._failures: deque[tuple[int, str]] = deque(maxlen=16)
        self._suspect = False  # the sampler failed or was late: it has to prove itself again
        self._lock = threading.RLock()  # one tick against enable, reset and clock jumps
        self.epoch = 0
        self._begin_epoch(None)

    @property
    def beta(self) -> float:
        """The temperature in effect: never below the policy's floor; infinite where it is none."""
        beta = self.tuning.beta
        return max(beta, self.policy.description.beta.min) if beta > 0 else math.inf

    # What the outside does to the core.

    def enable(self, on: bool) -> str:
        """Answers why not, or ""."""
        with self._lock:
            return self.supervisor.enable(on)

    def activate(self, enabled: bool) -> None:
        """Begins anew: nothing counts as seen or sent. `enabled`: move as soon as state is complete."""
        with self._lock:
            self.reset()
            self.assembler.clear()
            self.gate.silence()
            self.supervisor.enabled = enabled

    def reset(self) -> None:
        """Clears FAULT and HOLD; the robot has to be enabled again."""
        with self._lock:
            self._estop = None
            self._pending = None  # a sampler that still hangs is found out again
            self._failures.clear()
            self._suspect = False
            self.supervisor.reset()

    def estop(self) -> None:
        """Latches FAULT at the next tick. Only `reset` releases it."""
        self._estop = Problem("ESTOP", "emergency stop was pressed; release it, then call ~/reset")

    def clock_jumped(self) -> None:
        """The control clock went back: what was buffered belongs to another time."""
        with self._lock:
            self.assembler.clear()
            self.supervisor.interrupt(
                Problem("CLOCK_JUMP", "the clock went back; waiting for fresh state")
            )

    def clock_stopped(self, now: int) -> TickResult:
        """Instead of a tick while the control clock stands still: brings the robot to a hold."""
        with self._lock:
            problem = Problem(
                "CLOCK_STOPPED", "the control clock stands still; is /clock published?"
            )
            self.supervisor.interrupt(problem)
            output = self.gate.brake(now)
            return TickResult(self.supervisor.state, problem, None, output, None, 0.0)

    def halt(self, now: int) -> Output:
        """A hold in place of a tick, for the last words before a stop."""
        with self._lock:
            self.supervisor.enable(False)
            return self.gate.brake(now)

    def close(self) -> None:
        """Releases the sampler's thread."""
        self._inference.close()

    # The tick.

    def tick(self, now: int) -> TickResult:
        """One control period at `now` [ns on the control clock]."""
        began = time.perf_counter()
        with self._lock:
            self.ticks += 1
            state, sampled, candidate = self._decide(now)
            output = self.gate.step(now, candidate)
            reason = self.supervisor.reason
        return TickResult(state, reason, candidate, output, sampled, time.perf_counter() - began)

    def _decide(self, now: int) -> tuple[State, Sampled | None, Candidate | None]:
        """The supervisor's state for this tick, and a candidate if it is RUN."""
        if self._estop is not None:
            self.supervisor.fault(self._estop)
        answer = None
        if self._pending is not None and self.supervisor.state is not State.RUN:
            answer = self._receive(0)  # not acted on, but a sign of life
        # Counted in ticks: the control clock may jump while a request is open.
        self._pending_ticks = 0 if self._pending is None else self._pending_ticks + 1
        if self._pending_ticks * self._period * 1e-9 > HUNG:
            hung = Problem("INFER_HUNG", f"the sampler gave no answer for {HUNG:.0f} s")
            self.supervisor.fault(hung)
        observation = self.assembler.assemble(now)
        was_running = self.supervisor.state is State.RUN
        problem: Problem | None
        if isinstance(observation, Problem):
            problem = observation
        elif was_running and not self.supervisor.enabled:
            problem = DISABLED
        elif self._suspect and self.supervisor.state is State.HOLD:
            problem = self._probe(now, observation, answer)
        else:
            problem = None
        state = self.supervisor.update(now, problem)
        if state is not State.RUN or isinstance(observation, Problem):
            return state, None, None
        if not was_running:
            self._begin_epoch(observation)
        sampled, values, problem = self._act(now, observation)
        if problem is not None:
            self._suspect = True
            return self.supervisor.update(now, problem), sampled, None
        return state, sampled, self._candidate(now, observation, values)

    def _begin_epoch(self, observation: Observation | None) -> None:
        """Everything sampled before is void; the gate learns where the robot is measured."""
        self.epoch += 1
        self._chunk: Chunk | None = None
        self._pending, self._pending_ticks = None, 0
        self._executed = 0
        self._reused = 0
        self._last: np.ndarray | None = None
        measured = None
        if observation is not None:
            measured = np.append(observation.vector, np.nan)[self._measured]
        self.gate.begin_epoch(self.epoch, measured)

    def _act(
        self, now: int, observation: Observation
    ) -> tuple[Sampled | None, np.ndarray | None, Problem | None]:
        """The action for this tick: from the current chunk, a new one, or the last one again."""
        sampled = None
        if self._exhausted(now):
            if self._pending is None:
                self._request(now, observation)
            answer = self._receive(self._wait)
            if answer is not None:
                adopted = self._adopt(answer)
                if isinstance(adopted, Problem):
                    return None, None, self._failed(now, adopted)
                sampled = adopted
        values = self._scheduled(now)
        if values is not None:
            self._executed += 1
            self._reused = 0
            self._last = values
            return sampled, values, None
        self.overruns += 1
        self._reused += 1
        if self._reused > MAX_REUSE:
            late = f"no action for {self._reused} ticks: sampling is slower than the period"
            return sampled, None, Problem("OVERRUN", late)
        return sampled, self._last, None  # None: the first sample of an epoch may take a moment

    def _candidate(
        self, now: int, observation: Observation, values: np.ndarray | None
    ) -> Candidate | None:
        if values is None:
            return None
        self.sequence += 1
        return Candidate(
            owner=self._owner,
            sequence=self.sequence,
            epoch=self.epoch,
            stamp=observation.stamp,
            execute_at=now,
            deadline=now + DEADLINE_PERIODS * self._period,
            names=self._names,
            values=values,
        )

    def _exhausted(self, now: int) -> bool:
        return self._chunk is None or self._chunk.index(now, self._period) >= self._execute_steps

    def _scheduled(self, now: int) -> np.ndarray | None:
        """The chunk's action for `now`. While the next chunk is late, this one goes on to its end."""
        if self._chunk is None:
            return None
        index = self._chunk.index(now, self._period)
        return self._chunk.actions[index] if 0 <= index < len(self._chunk.actions) else None

    def _request(self, now: int, observation: Observation) -> None:
        beta = self.beta
        count, size = self.tuning.num_candidates, self.policy.flat_dim
        request = Request(
            obs=self.policy.normalizer.normalize_obs(observation.vector),
            noise=draw_noise(self._seed, observation.stamp, count, size),
            weight=1.0 / beta,  # the only place where beta becomes w
            start=now,
            stamp=observation.stamp,
            epoch=self.epoch,
            beta=beta,
            age=observation.age,
            guards=self.tuning.guards,
        )
        self._pending = now
        self._inference.submit(request)

    def _receive(self, timeout: float) -> Result | None:
        """A finished sample of this epoch, waiting for it if need be; older ones are dropped."""
        while (result := self._inference.poll(timeout)) is not None:
            if result.request.epoch == self.epoch:
                self._pending = None
                self.inference_latency.add(result.seconds)
                return result
        return None

    def _adopt(self, result: Result) -> Sampled | Problem:
        """Makes a result the current chunk."""
        if result.error:
            return Problem("INFERENCE", f"the sampler failed: {result.error}")
        sample, request = result.sample, result.request
        choice = choose(sample, self.policy, request.obs)
        if isinstance(choice, Problem):
            return choice
        assert sample is not None
        previous, row = self._chunk, choice.row
        self.samples += 1
        share = self._executed / len(previous.actions) if previous else float("nan")
        self._executed = 0
        self._chunk = Chunk(request.start, choice.action, request.epoch, self.samples)
        return Sampled(
            chunk=self._chunk,
            stamp=request.stamp,
            beta=request.beta,
            q=float(sample.q[row]),
            q_unguided=float(sample.q_unguided[row]),
            q_std=float(sample.q_std[row]),
            gradient_norm=float(sample.gradient_norm[row]),
            guidance_ratio=float(sample.guidance_ratio[row]),
            share_clipped=choice.share_clipped,
            guards=choice.guards,
            share_executed=share,
            inference_seconds=result.seconds,
            age=request.age,
        )

    def _probe(self, now: int, observation: Observation, answer: Result | None) -> Problem | None:
        """In HOLD after trouble with the sampler: asks it again, without acting on the answer."""
        if answer is None:
            if self._pending is None:
                self._request(now, observation)
            answer = self._receive(self._wait)
        if answer is None:
            return Problem("OVERRUN", "waiting for the sampler")
        tried: object = Problem("INFERENCE", f"the sampler failed: {answer.error}")
        if not answer.error:
            tried = choose(answer.sample, self.policy, answer.request.obs)
        if isinstance(tried, Problem):
            return self._failed(now, tried)
        self._suspect = False
        return None

    def _failed(self, now: int, problem: Problem) -> Problem:
        """Counts a failure of the sampler; a wrong form, or three failures, will not heal: FAULT."""
        self._failures.append((now, problem.code))
        recent = sum((now - at) * 1e-9 <= FAILURES_WITHIN for at, code in self._failures)
        if problem.code == "ACTION_SCHEMA" or recent >= FAILURES:
            self.supervisor.fault(problem)
        return problem
