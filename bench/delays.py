"""Success of the simulated arm over ROS topics when its state comes late, unevenly, or not at all.

    python bench/delays.py [--episodes 100] [--factor 3] [--json]

Simulator and node are processes of their own. Between them this one passes on the clock and every
observation, and holds each message back for so much simulated time; stamps stay as they are, so the
node sees true ages. Ages beyond the contract's `max_age` (0.15 s for the joints: three periods) are
no state, and the arm stands still by rule; `max_age raised` is the same policy with a contract that
allows half a second. Finished rows are kept in a file, and a run that was interrupted goes on there.
Exit code 8 where one period of delay costs more than 5 points of success, or where the machine could
not keep up with the clock.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import tyro
import yaml

from qgf_ros.console import emit, say, table
from qgf_ros.errors import CriterionNotMet, exit_codes
from qgf_ros.files.share import find_policy
from qgf_ros.policy.folder import load_policy
from qgf_ros.sim.episode import EpisodeResult
from qgf_ros.sim.world import Outcome
from qgf_ros.spaces.contract import Contract
from training.judge.evaluate import Variant, summarize
from training.learn.config import REPORT_SEEDS

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "test" / "support"))

import ros_harness as ros  # noqa: E402
from qgf_make import resign  # noqa: E402

FIRST_SEED = REPORT_SEEDS + 20_000
RAISED = 0.5  # s, maximum age of every source in the policy whose contract is raised
PATIENCE = 40.0  # s of simulated time per episode, settling included
START_PATIENCE = 60.0  # s
COSTS_AT_MOST = 0.05  # of success, at one period
MISSED_AT_MOST = 0.05  # of the ticks; more is a delay of the machine's own


@dataclass(frozen=True)
class Case:
    """What happens to the state. Times in control periods."""

    name: str
    delay: float = 0.0
    jitter: float = 0.0  # up to so much more, of each message by itself
    dropped: float = 0.0  # share of messages
    raised: bool = False  # the contract allows RAISED


CASES = (
    Case("no delay"),
    Case("1 period", 1),
    Case("2 periods", 2),
    Case("4 periods", 4),
    Case("4 periods, max_age raised", 4, raised=True),
    Case("jitter of a period", 0, 1),
    Case("2 % dropped", 0, 0, 0.02),
    Case("1 period, jitter, 2 % dropped", 1, 1, 0.02),
)


@dataclass(frozen=True)
class Delays:
    """Measures success over ROS topics under delays."""

    episodes: int = 100
    """Per row."""
    factor: float = 3.0
    """Simulated seconds per second; ticks that were missed are in the table."""
    policy: str = "planar_arm"
    out: Path | None = None  # JSON file; none: bench/results/delays-DATE.json
    json: bool = False

    def run(self) -> None:
        out = self.out or ROOT / f"bench/results/delays-{time.strftime('%Y-%m-%d')}.json"
        partial_file = out.with_suffix(".partial.jsonl")
        folder = find_policy(self.policy)
        policy = load_policy(folder)
        key = {"policy": policy.sha256, "episodes": self.episodes, "factor": self.factor}
        known = [json.loads(line) for line in _lines(partial_file)]
        rows: list[dict[str, Any]] = []
        with tempfile.TemporaryDirectory() as scratch:
            raised = raise_ages(folder, Path(scratch) / folder.name)
            for case in CASES:
                wanted = {"key": key, "case": asdict(case)}
                row = next((k["row"] for k in known if wanted.items() <= k.items()), None)
                if row is None:
                    row = episodes(raised if case.raised else folder, policy.contract, case, self)
                    with partial_file.open("a") as file:
                        file.write(json.dumps(wanted | {"row": row}) + "\n")
                say(f"{case.name}: {row['successes']}/{row['episodes']}")
                rows.append(row)
        document = {
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            "python": platform.python_version(),
            "beta": policy.description.beta.default,
            "period_s": policy.contract.time.period,
            **key,
            "rows": rows,
        }
        shown = ("state", "successes", "episodes", "interval", "steps_to_goal", "share_running", "ticks",
                 "missed_ticks")  # fmt: skip
        table("Success over ROS topics", shown, [[row[k] for k in shown] for row in rows])
        out.write_text(json.dumps(document, indent=1) + "\n")
        partial_file.unlink(missing_ok=True)
        say(f"written: {out}")
        if self.json:
            emit(document)
        busy = [row["state"] for row in rows if row["missed_ticks"] > MISSED_AT_MOST * row["ticks"]]
        if busy:
            raise CriterionNotMet(
                f"the machine was too busy, or --factor {self.factor:g} too large, to tell the delays "
                f"from its own: more than {MISSED_AT_MOST:.0%} of the ticks were missed in {', '.join(busy)}"
            )
        none, one = (row["successes"] / row["episodes"] for row in rows[:2])
        if none - one > COSTS_AT_MOST:
            raise CriterionNotMet(f"one period of delay costs {none - one:.1%}; allowed 5 %")


def raise_ages(source: Path, folder: Path) -> Path:
    """A copy of the policy whose contract allows RAISED seconds."""
    shutil.copytree(source, folder)
    file = folder / "policy.yaml"
    description = yaml.safe_load(file.read_text())
    for observation in description["contract"]["observations"]:
        observation["max_age"] = RAISED
    file.write_text(yaml.safe_dump(description, sort_keys=False))
    resign(folder)
    return folder


def episodes(folder: Path, contract: Contract, case: Case, asked: Delays) -> dict[str, Any]:
    """All episodes of one row."""
    domain = ros.take_domain()
    # Where nothing will ever be commanded, the simulator must not wait for it.
    oldest = load_policy(folder).contract.max_age(contract.observations[0])
    hopeless = case.delay * contract.time.period > oldest
    topics = [o.topic for o in contract.observations]
    remaps = tuple(f"{t}:=raw/{t.strip('/')}" for t in (*topics, "/clock"))
    with contextlib.ExitStack() as stack:
        stack.callback(ros.free_domain, domain)
        results = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "results.jsonl"
        relay = Relay(domain, contract, case)
        stack.callback(relay.close)
        deadline = START_PATIENCE + asked.episodes * PATIENCE / asked.factor
        node = ros.Proc(
            [*ros.node_command(), *ros.ros_args(policy=folder, enable_on_start=True, use_sim_time=True)],
            domain,
            deadline,
        )  # fmt: skip
        stack.callback(node.close)
        node.wait_line("qgf: READY", START_PATIENCE)
        options = {"world": "planar_arm", "seed": FIRST_SEED, "real_time_factor": asked.factor}
        options |= {"episodes": asked.episodes, "results": results}
        sim = ros.Proc(
            [*ros.node_command("qgf_sim"), *ros.ros_args(remaps, wait_for_command=not hopeless, **options)],
            domain,
            deadline,
        )  # fmt: skip
        stack.callback(sim.close)
        code = sim.wait(deadline)
        if code != 0 or not node.running:
            raise CriterionNotMet(f"{case.name}: simulator {code}\n{sim.log}\n{node.log}")
        lines = [json.loads(line) for line in _lines(results)]
        statuses = list(relay.statuses)
        node.stop()
    begun = next((i for i, s in enumerate(statuses) if s.msg.state == ros.RUN), 0)
    running = sum(s.msg.state == ros.RUN for s in statuses[begun:]) / len(statuses[begun:])
    period = contract.time.period
    done = [EpisodeResult(e["seed"], Outcome(e["outcome"]), e["seconds"]) for e in lines]
    figures = summarize(Variant("qgf", load_policy(folder).description.beta.default), done, period)
    low, high = figures.success.interval
    last = statuses[-1].msg
    return {
        "state": case.name,
        "successes": figures.success.count,
        "episodes": figures.success.total,
        "interval": [round(low, 3), round(high, 3)],
        "collisions": figures.collisions,
        "steps_to_goal": round(figures.steps_to_goal, 1) if figures.success.count else None,
        "share_running": round(running, 3),  # since it ran first
        "reasons": sorted({s.msg.reason for s in statuses} - {""}),
        "ticks": last.tick,
        "missed_ticks": last.overruns,
        "messages": relay.passed,
        "messages_dropped": relay.lost,
        "messages_refused_by_the_node": last.dropped,
    }


class Relay(ros.Wire):
    """Passes raw messages on when the simulated clock is far enough, and then the clock itself: who
    wakes up by it finds the state of that time."""

    def __init__(self, domain: int, contract: Contract, case: Case) -> None:
        super().__init__(domain, "relay", spin=False)
        from qgf_ros.ros import qos
        from qgf_ros.ros.conversions import ros_type

        self.passed = self.lost = 0
        self._case, self._period = case, contract.time.period * 1e9
        self._random = random.Random(FIRST_SEED)
        self._now = 0
        self._order = count()
        self._held: list[tuple[float, int, Callable[[bytes], None], bytes]] = []
        node = self.node
        for source in contract.observations:
            kind = ros_type(source.type)
            publish = node.create_publisher(kind, source.topic, qos.REPORT).publish
            node.create_subscription(
                kind,
                f"raw/{source.topic.strip('/')}",
                partial(self._hold, publish),
                qos.REPORT,
                raw=True,
            )
        self._clock = node.create_publisher(ros.Clock, "/clock", qos.REPORT)
        node.create_subscription(ros.Clock, "raw/clock", self._on_clock, qos.REPORT)
        self.statuses = self.record(ros.Status, "qgf/status", qos.REPORT)
        self.begin()

    def _hold(self, publish: Callable[[bytes], None], message: bytes) -> None:
        case = self._case
        if not self._now:  # of a time that is not known yet
            return
        if self._random.random() < case.dropped:
            self.lost += 1
            return
        late = case.delay + case.jitter * self._random.random()
        heapq.heappush(
            self._held, (self._now + late * self._period, next(self._order), publish, message)
        )

    def _on_clock(self, msg: Any) -> None:
        self._now = ros.ns(msg.clock)
        while self._held and self._held[0][0] <= self._now:
            _, _, publish, message = heapq.heappop(self._held)
            publish(message)
            self.passed += 1
        self._clock.publish(msg)


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


if __name__ == "__main__":
    with exit_codes():
        tyro.cli(Delays, description=(__doc__ or "").splitlines()[0]).run()
    sys.exit(0)
