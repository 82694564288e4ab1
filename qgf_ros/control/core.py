"""The control core: one tick from buffered messages to a command.

The node, the simulation and tests all call this one; only clock and transport differ.
Nothing here reads a clock, but to time itself: `now` comes in.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from qgf_ros.control.assembler import Assembler, Observation
from qgf_ros.control.chunk import Choice, Chunk, Sampled, draw_noise
from qgf_ros.control.gate import NOTHING, Candidate, Gate, Output
from qgf_ros.control.inference import Inference, Request, Result
from qgf_ros.control.notices import Notices
from qgf_ros.control.reasons import Problem
from qgf_ros.control.sampling import Build, Sampling, most_early
from qgf_ros.control.saturation import SATURATED, SaturationWatch
from qgf_ros.control.schedule import MAX_REUSE, Schedule
from qgf_ros.control.settings import Settings
from qgf_ros.control.slew import BetaSlew
from qgf_ros.control.supervisor import DISABLED, State, Supervisor
from qgf_ros.guidance.protocols import Sampler
from qgf_ros.policy.folder import Policy
from qgf_ros.spaces.actions.codec import Origin

DEADLINE_PERIODS = 2  # a candidate is worthless after so many periods
STANDS_STILL = Problem("CLOCK_STOPPED", "", "the control clock stands still; is /clock published?")

ESTOP = Problem("ESTOP", "", "emergency stop was pressed; release it, then call ~/reset")


@dataclass(frozen=True)
class TickResult:
    """What a tick decided."""

    state: State
    reason: Problem | None
    candidate: Candidate | None
    output: Output
    sampled: Sampled | None
    seconds: float  # the tick took
    observation_age: float | None = None  # s, of the oldest source; None: no observation
    stamps: tuple[int, ...] = ()  # ns, of each source's message; (): no observation
    assemble_seconds: float = 0.0
    gate_seconds: float = 0.0


class ControlCore:
    """All control logic of one policy on one robot.

    `tick` belongs to one thread; the other methods may be called from another.
    """

    def __init__(
        self,
        policy: Policy,
        inference: Inference,
        settings: Settings,
        *,
        owner: str = "qgf",
        enabled: bool = False,
        wait: float = 0.5,
        build: Build | None = None,
        timed: Iterable[float] = (),
    ) -> None:
        """
        Args:
            settings: resolved with this policy, see `control.settings.resolve`.
            wait: share of a period that a tick waits for its own sample before it goes on without.
            build, timed: see `Sampling`.
        """
        contract = policy.contract
        self.policy = policy
        self.notices = Notices()
        self.assembler = Assembler(contract, notices=self.notices)
        self.supervisor = Supervisor(enabled)
        self.gate = Gate(contract)
        self.gate.expect(*policy.codec.bounds())
        self.forbidden: Callable[[], Problem | None] = lambda: None  # a word from outside, per tick
        self.overruns = 0
        self.ticks = 0
        self.sequence = 0
        self.samples = 0
        self._inference = inference
        self._owner = owner
        self._period = round(contract.time.period * 1e9)
        self._names = contract.action_names
        self._measured = contract.measured
        self._estop: Problem | None = None
        self._standing = False  # the control clock, since the last tick
        self._asked = False  # to move, since the last tick
        self._guided = False  # the current chunk
        self._swapped = False  # the current chunk is of the policy before
        low, high, _ = contract.limits
        self.schedule = Schedule(self._period, high - low)
        self.sampling = Sampling(
            policy,
            inference,
            wait=wait * contract.time.period,
            fault=self.supervisor.fault,
            build=build,
            timed=timed,
        )
        self.inference_latency = self.sampling.latency
        # Of the last one: its age [s], its sources' stamps [ns], and the time that it took [s].
        self._assembled: tuple[float | None, tuple[int, ...], float] = (None, (), 0.0)
        self._measured_now: np.ndarray | None = None  # (A,), of this tick, where the gate asks for it
        self._slew = BetaSlew()
        self._saturation = SaturationWatch(contract.time.period)
        self._lock = threading.RLock()  # one tick against enable, reset and clock jumps
        self.apply(settings)
        self.epoch = 0
        self._begin_epoch(None)

    @property
    def beta(self) -> float:
        """The temperature in effect; in RUN it may be on its way to the settings'."""
        beta = self._slew.beta  # one look: a tick may forget it meanwhile
        running = self.supervisor.state is State.RUN
        return beta if running and beta else self._target(self.settings)

    def _target(self, settings: Settings) -> float:
        """The beta that was asked for: never below the policy's floor; infinite where it is none."""
        beta = settings.beta
        return max(beta, self.policy.description.beta.min) if beta > 0 else math.inf

    # What the outside does to the core.

    def apply(self, settings: Settings) -> None:
        """From the next sample and the next command on: the one place where a setting reaches the part
        that obeys it. A sample sees all of the old ones, or all of the new."""
        self.assembler.checks = settings.checks
        self.assembler.hold_if_frozen = settings.hold_if_frozen
        self.gate.scale = settings.limits_scale
        self.schedule.blend_steps = settings.blend_steps
        self.sampling.early = settings.real_time_chunking
        self.settings = settings

    def enable(self, on: bool) -> str:
        """Answers why not, or ""."""
        with self._lock:
            if on and self._standing:  # it would be remembered until the clock goes on
                return f"in {self.supervisor.state.name}: {STANDS_STILL.detail}"
            self._asked = on
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
            self.sampling.forget()
            self.supervisor.reset()

    def estop(self, problem: Problem = ESTOP) -> None:
        """Latches FAULT at the next tick, or while the clock stands still. Only `reset` releases it."""
        self._estop = problem

    def swap(
        self,
        policy: Policy,
        sampler: Sampler,
        settings: Settings,
        timed: Iterable[float] = (),
    ) -> None:
        """Between two ticks another policy for the same robot.

        The current chunk goes on until the first sample of the new one is there; the gate goes on
        from what was last sent. A FAULT stays, and a HOLD ends as it does otherwise.

        Args:
            settings: resolved with the new policy.
        """
        with self._lock:
            self.policy = policy
            self.gate.expect(*policy.codec.bounds())
            self.sampling.swap(policy, sampler, timed)
            self._slew.forget()  # its weights are on the scale of another return
            self._swapped = True
            self.apply(settings)

    def clock_jumped(self, stood: bool = False) -> TickResult:
        """The control clock jumped, back or ahead: what was buffered belongs to another time.

        stood: it is this process that stood still, and the robot meanwhile.
        """
        with self._lock:
            goal = self.policy.contract.outcome.goal
            self.assembler.clear(keep=goal.observation if goal else "")
            if not stood:
                self.gate.clock_jumped()
            problem = Problem("CLOCK_JUMP", "", "the clock jumped; waiting for fresh state")
            self.supervisor.interrupt(problem)
            # The next tick is the hold's first.
            return TickResult(self.supervisor.state, problem, None, NOTHING, None, 0.0)

    def clock_stopped(self, now: int) -> TickResult:
        """Instead of a tick while the control clock stands still: brings the robot to a hold."""
        with self._lock:
            if self._asked and self.supervisor.state is not State.RUN:
                self.supervisor.enable(False)  # no tick acted on it, and none may do so later
            self._standing = True
            self.supervisor.interrupt(STANDS_STILL)
            if self._estop is not None:
                self.supervisor.fault(self._estop)
            output = self.gate.brake(now)
            reason = self.supervisor.reason or STANDS_STILL
            return TickResult(self.supervisor.state, reason, None, output, None, 0.0)

    def halt(self, now: int) -> Output:
        """A hold in place of a tick, for the last words before a stop."""
        with self._lock:
            self.supervisor.enable(False)
            return self.gate.brake(now)

    def stop(self, now: int) -> Output:
        """The very last word: standing still."""
        with self._lock:
            return self.gate.stop(now)

    def takeover(self, owner: str) -> None:
        """Somebody else's commands reach the robot: HOLD, and no motion until `enable`."""
        with self._lock:
            self.supervisor.takeover(owner)

    def gate_restarted(self) -> None:
        """The gate outside began anew and knows nothing of what moved: HOLD, until `enable`."""
        with self._lock:
            self.supervisor.stand_down(
                Problem("GATE_RESTARTED", "", "the gate outside began anew; call ~/enable to go on")
            )

    def stalled(self, problem: Problem, ask: bool) -> None:
        """Nothing could be heard for a while: HOLD. ask: until `enable`, since what was not heard
        may have been a stop that is over."""
        with self._lock:
            if ask:
                self.supervisor.stand_down(problem)
            else:
                self.supervisor.interrupt(problem)

    def explicit_hold(self, now: int) -> Candidate:
        """The candidate by which an outside gate holds at once, rather than after its timeout."""
        with self._lock:
            self.sequence += 1
            deadline = now + DEADLINE_PERIODS * self._period
            return Candidate(
                self._owner, self.sequence, self.epoch, now, now, deadline, (), np.empty(0)
            )

    def missed(self, ticks: int) -> None:
        """So many ticks came more than a period late, or not at all. In RUN these are overruns: a gap
        between commands is never silent."""
        if self.supervisor.state is State.RUN:
            self.overruns += ticks

    def close(self) -> None:
        """Releases the sampler's thread."""
        self._inference.close()

    # The tick.

    def tick(self, now: int) -> TickResult:
        """One control period at `now` [ns on the control clock]."""
        began = time.perf_counter()
        with self._lock:
            self.ticks += 1
            self._standing = self._asked = False
            state, sampled, candidate = self._decide(now)
            decided = time.perf_counter()
            output = self.gate.step(now, candidate, measured=self._measured_now)
            if (why := output.refused) is not None:
                detail = f"the gate refused our own command: {why.detail}"
                state = self.supervisor.update(now, replace(why, detail=detail))
            self.assembler.sent(now, output.values)
            guided = candidate is not None and self._guided
            if self._saturation(now, guided and output.limited):
                self.notices.note(now, SATURATED)
            reason = self.supervisor.reason
            age, stamps, assembling = self._assembled
        ended = time.perf_counter()
        times = (ended - began, age, stamps, assembling, ended - decided)
        return TickResult(state, reason, candidate, output, sampled, *times)

    def _decide(self, now: int) -> tuple[State, Sampled | None, Candidate | None]:
        """The supervisor's state for this tick, and a candidate if it is RUN."""
        if self._estop is not None:
            self.supervisor.fault(self._estop)
        answer = None
        if self.sampling.pending and self.supervisor.state is not State.RUN:
            answer = self.sampling.receive(self.epoch, wait=False)  # no more than a sign of life
        if (hung := self.sampling.overdue()) is not None:
            self.supervisor.fault(hung)
        began = time.perf_counter()
        observation = self.assembler.assemble(now)
        seen = None if isinstance(observation, Problem) else observation
        self._measured_now = self._measured(seen.vector) if seen and self.gate.needs_measured else None
        self._assembled = (
            seen.age if seen else None,
            seen.stamps if seen else (),
            time.perf_counter() - began,
        )
        was_running = self.supervisor.state is State.RUN
        problem: Problem | None
        if isinstance(observation, Problem):
            problem = observation
        elif was_running and not self.supervisor.enabled:
            problem = DISABLED
        elif (forbidden := self.forbidden()) is not None:
            problem = forbidden
        elif not was_running and self.supervisor.state is not State.FAULT:
            problem = self.sampling.unready(
                now, self.epoch, answer, lambda: self._request(now, observation)
            )
        else:
            problem = None
        state = self.supervisor.update(now, problem)
        if state is not State.RUN or isinstance(observation, Problem):
            return state, None, None
        if not was_running:
            self._begin_epoch(observation)
        sampled, values, problem = self._act(now, observation)
        if problem is not None:
            self.sampling.suspect = True
            return self.supervisor.update(now, problem), sampled, None
        return state, sampled, self._candidate(now, observation, values)

    def _begin_epoch(self, observation: Observation | None) -> None:
        """Everything sampled before is void; the gate learns where the robot is measured."""
        self.epoch += 1
        self.schedule.clear()
        self.sampling.void()
        if self.gate.silent or self.gate.at_rest:
            self._slew.forget()
        self._reused = 0
        measured = None
        if observation is not None:
            measured = self._measured(observation.vector)
        self.gate.begin_epoch(self.epoch, measured)

    def _act(
        self, now: int, observation: Observation
    ) -> tuple[Sampled | None, np.ndarray | None, Problem | None]:
        """The action for this tick: from the current chunk, a new one, or the last one again."""
        sampled = self._take_up(now)
        if not self.sampling.pending and not isinstance(sampled, Problem):
            steps, lead = self.policy.contract.time.execute_steps, self._lead()
            if self._swapped or self.schedule.exhausted(now, steps - lead):
                self._request(now, observation, self.schedule.committed(now, lead))
                sampled = sampled or self._take_up(now)
        if isinstance(sampled, Problem):
            return None, None, sampled
        values = self.schedule.take(now)
        if values is not None:
            self._reused = 0
            return sampled, values, None
        self.overruns += 1
        self._reused += 1
        late = f"no action for {self._reused} ticks: sampling is slower than the period"
        self.notices.note(now, Problem("OVERRUN", "", late))
        # Nothing moves before the first chunk: it may take as long as it has actions.
        patience = MAX_REUSE if self.schedule.begun else max(MAX_REUSE, self.policy.horizon - 1)
        if self._reused > patience:
            return sampled, None, Problem("OVERRUN", "", late)
        return sampled, self.schedule.repeat(), None

    def _take_up(self, now: int) -> Sampled | Problem | None:
        """The answer to the request that is pending, if it has come, as the current chunk."""
        if not self.sampling.pending:
            return None
        steps = self.policy.contract.time.execute_steps
        in_time = self.settings.real_time_chunking or not self.schedule.exhausted(now, steps)
        covered = in_time and self.schedule.covers(now)
        answer = self.sampling.receive(self.epoch, wait=not covered)
        if answer is None:
            return None
        choice = self.sampling.judge(now, answer)
        return choice if isinstance(choice, Problem) else self._adopt(now, answer, choice)

    def _lead(self) -> int:
        """Ticks from a request to its answer, by which it is made earlier. 0: when it is due."""
        if not self.settings.real_time_chunking:
            return 0
        p99 = self.inference_latency.percentiles_ms()[1] * 1e6
        ticks = math.ceil(p99 / self._period) if p99 > 0 else 1  # NaN: nothing is measured yet
        return min(ticks, most_early(self.policy))

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

    def _request(
        self, now: int, observation: Observation, committed: np.ndarray | None = None
    ) -> None:
        """Asks for a chunk that begins now. committed: (k, A) its first actions, robot units."""
        settings, floor = self.settings, self.policy.description.beta.min
        beta = self._slew(now, self._target(settings), floor, settings.slew)
        self._committed = committed
        observed, fixed = self.policy.observed(observation.vector, self.gate.last), None
        if committed is not None:
            # Not clipped: they will be executed as they are, wherever the robot has got to.
            fixed = self.policy.codec.encode(
                committed, Origin(observed.raw, observed.last), clip=False
            )
        count, size = settings.num_candidates, self.policy.flat_dim
        request = Request(
            observed=observed,
            noise=draw_noise(settings.seed, observation.stamp, count, size),
            weight=1.0
            / beta,  # of every command; warm-up, reports and Slew do the same for themselves
            start=now,
            stamp=observation.stamp,
            epoch=self.epoch,
            beta=beta,
            age=observation.age,
            guards=settings.guards,
            committed=fixed,
        )
        self.sampling.submit(request)

    def _adopt(self, now: int, result: Result, choice: Choice) -> Sampled:
        """Makes a result the current chunk."""
        sample, request, row = result.sample, result.request, choice.row
        assert sample is not None
        if "q_invalid" in choice.guards:
            invalid = "Q or its gradient was not to be believed; that candidate is unguided"
            self.notices.note(now, Problem("Q_INVALID", "", invalid))
        self.samples += 1
        self._swapped = False
        self._guided = choice.guided and request.weight > 0
        share = self.schedule.share_executed()
        chunk, seam_jump = self.schedule.adopt(
            Chunk(request.start, choice.action, request.epoch, self.samples), now, self._committed
        )
        return Sampled(
            chunk=chunk,
            stamp=request.stamp,
            beta=request.beta,
            q=float((sample.q if choice.guided else sample.q_unguided)[row]),
            q_unguided=float(sample.q_unguided[row]),
            q_std=float(sample.q_std[row]),
            gradient_norm=float(sample.gradient_norm[row]),
            guidance_ratio=float(sample.guidance_ratio[row]) if choice.guided else 0.0,
            share_clipped=choice.share_clipped,
            guards=choice.guards,
            seam_jump=seam_jump,
            share_executed=share,
            inference_seconds=result.seconds,
            age=request.age,
        )
