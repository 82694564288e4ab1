"""What a running node and its gate have said lately, and how old that is.

Messages are taken as they come and never trusted: whoever is in the DDS domain can send them, and
what they say ends up on a terminal. Times are steady seconds of this process, at receipt.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any, Literal, NamedTuple

from qgf_ros.control.reasons import Problem
from qgf_ros.control.supervisor import State

STALE, GONE = 0.5, 1.0  # s without a status, of which there are ten per second
SAMPLES_MISSED = 3  # after so many, a Q is of the past
HISTORY = 20.0  # s
MOST = 4096  # samples in it
LONGEST, MANY = 500, 64  # characters of a text, entries of a list

Life = Literal["never", "live", "stale", "gone", "ended"]
Zone = Literal["gentle", "firm", "beyond", "unknown"]


class Received(NamedTuple):
    """A message and when it came."""

    at: float
    msg: Any


class Sampled(NamedTuple):
    """Of one chunk; see QValues.msg."""

    at: float
    q_unguided: float
    q: float
    gain: float
    ratio: float


class Speaker:
    """A node that has a status."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.said: Received | None = None
        self.since = math.nan  # when it came into its state; NaN: before it was first heard

    def status(self, now: float, msg: Any) -> None:
        if self.said is not None and self.said.msg.state != msg.state:
            self.since = now
        self.said = Received(now, msg)

    def age(self, now: float) -> float:
        """s since its last word; infinite without one."""
        return math.inf if self.said is None else now - self.said.at

    def life(self, now: float) -> Life:
        if self.said is None:
            return "never"
        if self.said.msg.state == State.SHUTDOWN:
            return "ended"
        age = self.age(now)
        return "gone" if age > GONE else "stale" if age > STALE else "live"

    @property
    def state(self) -> str:
        """Name of the state it last said."""
        number = self.said.msg.state if self.said else -1
        state = State.said(number)
        return f"STATE {number}" if state is None else state.name


class Heard:
    """All that is known of a node called `name`, such as "/qgf", and of the gate beside it."""

    def __init__(self, name: str) -> None:
        self.node = Speaker(name)
        self.gate = Speaker(f"{name.rpartition('/')[0]}/qgf_gate")
        self.gate_announced = False  # somebody offers its status, whether heard or not
        self.asked: dict[str, float] = {}  # the node's parameters
        self.q: Received | None = None
        self.samples: deque[Sampled] = deque(maxlen=MOST)
        self.statuses: deque[Received] = deque(maxlen=MOST)
        self.others: list[str] = []  # nodes that have a status, where ours has none
        self._info: Any = None

    # Messages in.

    def status(self, now: float, msg: Any) -> None:
        self.node.status(now, msg)
        self.statuses.append(Received(now, msg))
        while self.statuses[0].at < now - HISTORY:
            self.statuses.popleft()

    def q_values(self, now: float, msg: Any) -> None:
        self.q = Received(now, msg)
        row = (msg.q_unguided, msg.q_sampled, msg.q_gain, msg.guidance_ratio)
        self.samples.append(Sampled(now, *row))
        while self.samples[0].at < now - HISTORY:
            self.samples.popleft()

    def policy_info(self, now: float, msg: Any) -> None:
        self._info = msg

    # What is known.

    @property
    def info(self) -> Any:
        """PolicyInfo of the policy that the node says it has; None: it has not come yet."""
        said = self.node.said.msg.policy_sha256 if self.node.said else ""
        return self._info if self._info is not None and said in ("", self._info.sha256) else None

    @property
    def beta(self) -> float:
        """In effect; NaN unknown."""
        return self.node.said.msg.beta if self.node.said else math.nan

    @property
    def beta_asked(self) -> float:
        """The parameter; NaN unknown."""
        return self.asked.get("beta", math.nan)

    @property
    def zone(self) -> Zone:
        """Of the beta in effect."""
        return zone(self.beta, self.info.beta_suggested) if self.info is not None else "unknown"

    @property
    def budget_ms(self) -> float:
        """From one sample to the next; NaN unknown."""
        info = self.info
        return info.period * info.execute_steps * 1e3 if info is not None else math.nan

    def q_is_old(self, now: float) -> bool:
        between = 0.0 if math.isnan(self.budget_ms) else self.budget_ms / 1e3
        return self.q is None or now - self.q.at > max(GONE, SAMPLES_MISSED * between)

    def lately(self, counter: str) -> int:
        """By how much a counter of the status rose within the history; 0 after a restart."""
        values = [getattr(said.msg, counter) for said in self.statuses]
        return max(0, values[-1] - values[0]) if values else 0

    def waits_for(self, now: float) -> list[str]:
        """What has to come before the picture is whole."""
        name = self.node.name
        if self.node.said is None:
            others = f" (there is {', '.join(map(clean, self.others))})" if self.others else ""
            return [f"{name}/status{others}"]
        if self.node.life(now) in ("gone", "ended"):
            return [f"{name}/status"]
        missing = [f"{name}/policy_info"] if self.info is None else []
        if self.node.said.msg.state == State.RUN and self.q_is_old(now):
            missing.append(f"{name}/q_values")
        if self.gate_announced and self.gate.said is None:
            missing.append(f"{self.gate.name}/status")
        return missing

    def document(self, now: float) -> dict[str, Any]:
        """Everything, for scripts."""
        found = _speaker(self.node, now) | {"waits_for": self.waits_for(now)}
        gate = None if self.gate.said is None else _speaker(self.gate, now)
        found |= {"beta": None, "q": None, "inference_ms": None, "gate": gate, "policy": None}
        info = self.info
        names: tuple[str, ...]
        if self.node.said is not None:
            s = self.node.said.msg
            names = ("enabled", "tick", "sequence", "epoch", "state_score", "overruns", "dropped",
                     "limit_hits")  # fmt: skip
            found |= {name: getattr(s, name) for name in names}
            found["topic_age"] = {clean(t): age for t, age in zip(s.topics[:MANY], s.topic_age)}
            found["beta"] = {
                "in_effect": self.beta,
                "asked": self.beta_asked,
                "zone": self.zone,
                "floor": info.beta_min if info else math.nan,
                "default": info.beta_default if info else math.nan,
                "suggested": list(info.beta_suggested) if info else [],
            }
            found["inference_ms"] = {
                "p50": s.inference_p50_ms,
                "p99": s.inference_p99_ms,
                "max": s.inference_max_ms,
                "budget": self.budget_ms,
            }
        if self.q is not None:
            q = self.q.msg
            names = ("q_unguided", "q_sampled", "q_gain", "ensemble_spread", "gradient_norm",
                     "guidance_ratio", "share_clipped", "seam_jump", "tick_ms",
                     "observation_age")  # fmt: skip
            found["q"] = {"age": now - self.q.at} | {name: getattr(q, name) for name in names}
            found["q"]["guards"] = [clean(g) for g in q.guards[:MANY]]
        if info is not None:
            names = ("name", "sha256", "robot", "objective", "backend", "device")
            found["policy"] = {name: clean(getattr(info, name)) for name in names}
        return found


def _speaker(node: Speaker, now: float) -> dict[str, Any]:
    found: dict[str, Any] = {"node": node.name, "life": node.life(now), "age": node.age(now)}
    if node.said is None:
        return found | {"age": math.nan, "state": None}
    s = node.said.msg
    return found | {
        "state": node.state,
        "reason": clean(s.reason),
        "detail": clean(s.detail),
        "remedy": remedy(s.reason),
        "warnings": [clean(w) for w in s.warnings[:MANY]],
        "rate": s.achieved_rate,
    }


def zone(beta: float, suggested: Any) -> Zone:
    """How hard a beta guides, by the policy's suggestions: gentle from the largest one on to
    infinity; firm down to the smallest one, where guidance is as strong as the flow or the denoising
    steps begin to be unstable; beyond it below. Of suggestions there may be none: then only
    infinity is known to be gentle."""
    if beta == math.inf or (suggested and beta >= max(suggested)):
        return "gentle"
    if math.isnan(beta) or not suggested:
        return "unknown"
    return "firm" if beta >= min(suggested) else "beyond"


def remedy(text: str) -> str:
    """What to do about a status's reason or warning; "" where the table does not have it."""
    known = Problem.parse(text)
    return known.row.remedy if known is not None else ""


def clean(text: str) -> str:
    """Without what would move the cursor or change colours."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:LONGEST])
