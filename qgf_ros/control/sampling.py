"""Asking the sampler, one request at a time, and judging what comes back and how it behaves."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from qgf_ros.control.chunk import Choice, choose, draw_noise
from qgf_ros.control.inference import Inference, Rebuild, Request, Result, run_sampler
from qgf_ros.control.latency import Latency
from qgf_ros.control.reasons import Problem
from qgf_ros.control.schedule import MAX_REUSE
from qgf_ros.errors import PolicyRefused
from qgf_ros.guidance.protocols import Sampler
from qgf_ros.policy.folder import Policy

HUNG = 1.0  # s without an answer of the sampler: it will not come
FAILURES, FAILURES_WITHIN = 3, 10.0  # of the sampler, s: then it is a FAULT
LOST_AGAIN = 60.0  # s: a device that is lost twice within is a FAULT
INCREDIBLE = 10  # samples in a row with an invalid Q or gradient: then it is a HOLD
PROBES = 10  # calls by which a sampler is timed

Build = Callable[[Policy, str], Sampler]  # a sampler for a policy, on that device and no other


class Sampling:
    """The mailbox to the sampler, and whether the sampler can be relied upon.

    `suspect`: it failed or was late, and has to prove itself before the robot moves again.
    `early`: requests are made before they are due.
    """

    def __init__(
        self,
        policy: Policy,
        inference: Inference,
        *,
        wait: float,
        fault: Callable[[Problem], None],
        build: Build | None = None,
        timed: Iterable[float] = (),
    ) -> None:
        """
        Args:
            wait: how long a tick waits for an answer of its own [s].
            fault: latches FAULT.
            build: makes the sampler again after its device was lost; None: that is a FAULT.
            timed: seconds that calls have taken, see `time_sampler`.
        """
        self.latency = Latency()
        self.pending = False
        self.suspect = False
        self.early = False
        self._policy = policy
        self._inference = inference
        self._wait = wait
        self._fault = fault
        self._build = build
        self._rebuild: Rebuild | None = None
        self._period = policy.contract.time.period
        self._timed = deque(timed, maxlen=PROBES)
        self._ticks = 0  # of the request that is pending
        self._incredible = 0  # samples in a row
        self.forget()

    @property
    def device(self) -> str:
        """Where the sampler runs, as its session really reports."""
        return self._inference.sampler.device

    def forget(self) -> None:
        """After a reset: what went wrong before no longer counts."""
        self.pending = False  # a sampler that still hangs is found out again
        self.suspect = False
        self._failures: deque[tuple[int, str]] = deque(maxlen=16)
        self._lost: int | None = None
        self._incredible = 0

    def void(self) -> None:
        """A new epoch: what was asked before is of no use."""
        self.pending, self._ticks = False, 0

    def swap(self, policy: Policy, sampler: Sampler, timed: Iterable[float] = ()) -> None:
        """Goes on with another sampler, which has no past."""
        self._policy = policy
        self._inference.swap(sampler)
        self._rebuild = None
        self._timed = deque(timed, maxlen=PROBES)
        self.latency.clear()
        self.forget()
        self.void()

    def submit(self, request: Request) -> None:
        self.pending, self._ticks = True, 0
        self._inference.submit(request)

    def receive(self, epoch: int, wait: bool) -> Result | None:
        """A finished sample of this epoch; older ones are dropped."""
        while (result := self._inference.poll(self._wait if wait else 0)) is not None:
            if result.request.epoch == epoch:
                self.pending = False
                self.latency.add(result.seconds)
                return result
        return None

    def overdue(self) -> Problem | None:
        """Once per tick: the answer will not come. Counted in ticks: the clock may jump meanwhile."""
        self._ticks = self._ticks + 1 if self.pending else 0
        if self._ticks * self._period > HUNG:
            return Problem("INFER_HUNG", "", f"the sampler gave no answer for {HUNG:.0f} s")
        return None

    def judge(self, now: int, result: Result) -> Choice | Problem:
        """The candidate to execute, or what is wrong. A wrong form, or three failures, is a FAULT."""
        if result.device_lost:
            return self._device_lost(now, result.error)
        if result.error:
            return self._failed(
                now, Problem("INFERENCE", "", f"the sampler failed: {result.error}")
            )
        request = result.request
        choice = choose(result.sample, self._policy, request.observed, request.guards.keep_best)
        if isinstance(choice, Problem):
            return self._failed(now, choice)
        # Without guidance the critic has no say, and its state stops nothing.
        invalid = request.weight > 0 and not choice.credible
        self._incredible = self._incredible + 1 if invalid else 0
        if self._incredible >= INCREDIBLE:
            return Problem(
                "Q_INVALID",
                "",
                f"Q or its gradient was invalid in {self._incredible} samples in a row; "
                "beta inf goes on unguided",
            )
        return choice

    def unready(
        self, now: int, epoch: int, answer: Result | None, ask: Callable[[], None]
    ) -> Problem | None:
        """What forbids to begin or to resume. Samples, if it must, without acting on the answer.

        Args:
            answer: what has come already in this tick.
            ask: requests a sample for the state of this tick.
        """
        if self._rebuild is not None and (problem := self._rebuilt()):
            return problem
        slow = self._too_slow()
        if not (self.suspect or slow):
            return None
        if answer is None:
            if not self.pending:
                ask()
            answer = self.receive(epoch, wait=True)
        if answer is None:
            return slow or Problem("OVERRUN", "", "waiting for the sampler")
        tried = self.judge(now, answer)
        if isinstance(tried, Problem):
            self.suspect = True
            return tried
        if self.suspect and answer.seconds > self._patience:
            late = f"a sample still takes {answer.seconds * 1e3:.1f} ms"
            return Problem(
                "OVERRUN", "", f"{late}, and {self._patience * 1e3:.1f} ms would be in time"
            )
        self.suspect = False
        self._timed.append(answer.seconds)
        return self._too_slow()

    @property
    def _patience(self) -> float:
        """s that a sample may take before a tick is without a valid action."""
        time = self._policy.contract.time
        early = most_early(self._policy) if self.early else 0
        return time.period * (time.horizon - time.execute_steps + MAX_REUSE + early)

    def _too_slow(self) -> Problem | None:
        slowest = max(self._timed, default=0.0)  # p99 of ten calls
        budget = time_budget(self._policy)
        if slowest <= budget:
            return None
        return Problem(
            "SAMPLER_SLOW",
            "",
            f"a sample takes {slowest * 1e3:.1f} ms (p99 of the last {len(self._timed)}), and there are "
            f"{budget * 1e3:.1f} ms for it",
        )

    def _failed(self, now: int, problem: Problem) -> Problem:
        self._failures.append((now, problem.code))
        recent = sum(abs(now - at) * 1e-9 <= FAILURES_WITHIN for at, code in self._failures)
        if problem.row.leads_to == "FAULT" or recent >= FAILURES:
            self._fault(problem)
        return problem

    def _device_lost(self, now: int, error: str) -> Problem:
        """The sampler is made again once; twice within a minute is a FAULT."""
        again = self._lost is not None and abs(now - self._lost) * 1e-9 <= LOST_AGAIN
        self._lost = now
        device, policy, build = self.device, self._policy, self._build
        if again or build is None:
            problem = Problem("DEVICE", "", f"{device} was lost{' again' * again}: {error}")
            self._fault(problem)
            return problem
        self._rebuild = Rebuild(lambda: build(policy, device))
        return Problem("DEVICE", "", f"{device} was lost, the sampler is made again: {error}")

    def _rebuilt(self) -> Problem | None:
        """Takes the sampler over once it is made; another device would be slower in silence."""
        assert self._rebuild is not None
        outcome, device = self._rebuild.poll(), self.device
        if outcome is None:
            return Problem("DEVICE", "", f"{device} was lost; the sampler is being made again")
        self._rebuild = None
        if isinstance(outcome, str) or outcome.device != device:
            what = outcome if isinstance(outcome, str) else f"it would run on {outcome.device}"
            problem = Problem("DEVICE", "", f"{device} was lost and cannot be had again: {what}")
            self._fault(problem)
            return problem
        self._inference.swap(outcome)
        self.void()
        self.suspect = True
        return None


def most_early(policy: Policy) -> int:
    """Ticks by which a request may be made before it is due: half a chunk, so that there are actions
    until the next answer."""
    return policy.horizon // 2


def time_budget(policy: Policy) -> float:
    """s between two samples: a sampler that takes longer can never keep up."""
    time = policy.contract.time
    return time.period * time.execute_steps


def time_sampler(policy: Policy, sampler: Sampler, candidates: int = 1) -> list[float]:
    """Seconds of `PROBES` calls, after one that does not count.

    Raises:
        PolicyRefused: it gives no finite chunk of the policy's form.
    """
    seconds = []
    for call in range(PROBES + 1):
        request = Request(
            observed=policy.observed(policy.normalizer.obs_mean),
            noise=draw_noise(0, call, candidates, policy.flat_dim),
            weight=1.0 / policy.description.beta.default,
            start=0,
            stamp=call,
            epoch=0,
            beta=policy.description.beta.default,
            age=0.0,
        )
        result = run_sampler(sampler, request)
        choice = (
            choose(result.sample, policy, request.observed) if not result.error else result.error
        )
        if isinstance(choice, (str, Problem)):
            why = choice if isinstance(choice, str) else choice.detail
            raise PolicyRefused(f"{policy.folder}: a first sample failed: {why}")
        seconds.append(result.seconds)
    return seconds[1:]
