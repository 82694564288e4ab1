"""A replay's attempts begin and end where training's do."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from qgf_make import SCALE, START
from qgf_replay import CONTRACT, PERIOD

from qgf_ros.replay.events import BagMessage
from qgf_ros.replay.player import Player
from qgf_ros.spaces.outcome import AttemptsSpec, EndSource, GoalSpec, OutcomeSpec
from training.pipeline.align import align
from training.pipeline.report import Report
from training.pipeline.streams import Recording, Stream

PLAIN = EndSource("success", "std_msgs/Bool", ("data",))
FORCE = EndSource("force", "std_msgs/Float64", ("data",), test="data > 3", max_age=0.2)
HELD = replace(FORCE, test="data > 3 for 0.1 s")
GOAL = GoalSpec("goal", ("joints.position.shoulder", "joints.position.elbow"), 0.5)
KINDS = {
    "moments": ("time_to_success", PLAIN, None, "outcome", None),
    "tests": ("time_to_success", FORCE, None, "outcome", None),
    "duration": ("time_to_success", HELD, None, "outcome", None),
    "both": ("time_to_success", FORCE, replace(PLAIN, topic="failed"), "outcome", None),
    "length": ("time_to_success", PLAIN, None, "length", 1.0),
    "goal": ("reach_goal", None, None, "goal", None),
    "goal and failure": ("reach_goal", None, replace(PLAIN, topic="failed"), "goal", None),
}


def made(kind):
    objective, success, failure, end, seconds = KINDS[kind]
    goal = GOAL if objective == "reach_goal" else None
    attempts = AttemptsSpec(end, seconds)
    outcome = OutcomeSpec(objective, goal, None, success, failure, attempts=attempts)
    return replace(CONTRACT, outcome=outcome)


def recorded(contract, random, ticks=120):
    """What was said: (at, name, values). States and commands at every tick, outcomes in between."""
    said = []
    force = failed = False
    goal, place = np.zeros(2), np.full(2, 5.0)
    for k in range(ticks):
        at = START + k * PERIOD
        goal = random.choice([0.0, 3.0], 2) if random.random() < 0.03 else goal
        place = random.choice([0.0, 3.0], 2) if random.random() < 0.2 else place
        states = {o.name: np.zeros(len(o.labels)) for o in contract.observations}
        states["goal"] = goal + random.normal(scale=0.02, size=2)
        states["joints"][:2] = place
        said += [(at, name, values) for name, values in states.items()]
        said.append((at, "arm", np.full(2, float(k))))
        then = at + PERIOD // 2
        force = force ^ (random.random() < (0.3 if force else 0.05))
        failed = failed ^ (random.random() < (0.3 if failed else 0.03))
        success = contract.outcome.success
        if success is not None and success.test:
            said.append((then, "success", np.array([5.0 * force])))
        elif success is not None and (force or random.random() < 0.01):
            said.append((then, "success", np.array([float(random.random() < 0.9)])))
        if contract.outcome.failure is not None and (failed or random.random() < 0.05):
            said.append((then, "failure", np.array([float(failed)])))
        if said[-1][0] == then and random.random() < 0.1:  # and another of the same moment
            said.append((*said[-1][:2], np.array([float(random.random() < 0.5)])))
    return said


def trained(contract, said):
    """First tick, ticks, whether an outcome ended it."""
    streams = {}
    for name in dict.fromkeys(n for _, n, _ in said):
        rows = [(at, values) for at, n, values in said if n == name]
        stamp = np.array([at for at, _ in rows], np.int64)
        streams[name] = Stream(stamp, stamp, np.stack([values for _, values in rows]))
    for name, width in (("success", 1), ("failure", 1)):
        none = Stream(np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, width)))
        streams.setdefault(name, none)
    found = align(Recording("bag", streams), contract, Report())
    return [(int(e.action[0, 0]), len(e), e.terminal) for e in found]


def replayed(contract, said):
    found = []

    def score(segment, commands):
        found.append(((segment.begin - START) // PERIOD, segment.ticks, segment.ended))

    player = Player(contract, [], 5, score)
    player.play(BagMessage(at, name, at, values) for at, name, values in said)
    assert player.episodes == len(found)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_fault_146_a_replay_cuts_attempts_where_training_does(kind):
    contract, random, ended = made(kind), np.random.default_rng(0), Counter()
    for _ in range(20 * SCALE):
        said = recorded(contract, random)
        ours, theirs = trained(contract, said), replayed(contract, said)
        # With the last message a replay is over: its last tick need not be there.
        end = [(first, ticks, won) for first, ticks, won in theirs if first + ticks < 119]
        assert end == [row for row in ours if row[0] + row[1] < 119]
        assert len(theirs) in (len(ours), len(ours) - 1)
        ended.update(won for _, _, won in ours)
    assert ended[True] > 20 and ended[False] >= 10


def test_every_attempt_begins_anew_and_what_was_seen_is_known():
    """A core is told of each beginning, and that a goal was said once it has not forgotten."""
    told = []

    class Drive:
        def again(self):
            told.append("again")

        def begin(self):
            told.append("begin")

        def tick(self, now, number):
            told.append(number)

        def take(self):
            told.append("take")

        class core:
            class assembler:
                push = staticmethod(lambda *message: None)

    contract = made("moments")
    state = {o.name: np.zeros(len(o.labels)) for o in contract.observations}
    said = [
        (START + k * PERIOD, name, values)
        for k in range(8)
        for name, values in (*state.items(), ("arm", np.zeros(2)))
    ]
    said.append((START + 3 * PERIOD + 1, "success", np.array([1.0])))
    said.sort(key=lambda row: row[0])
    player = Player(contract, [Drive()], 5, lambda segment, commands: None)
    player.play(BagMessage(at, name, at, values) for at, name, values in said)
    assert told == [0, 1, 2, 3, "take", "again", 0, 1, 2, "take"]
