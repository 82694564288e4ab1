"""A replay's episodes end where training's do."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from qgf_make import SECOND
from qgf_replay import CONTRACT, PERIOD, START

from qgf_ros.replay.ending import Ending
from qgf_ros.replay.events import BagMessage
from qgf_ros.replay.player import Player
from qgf_ros.spaces.outcome import EndSource, OutcomeSpec
from training.pipeline.readers.rewards import ending
from training.pipeline.streams import Stream

FORCE = {"topic": "wrench", "type": "geometry_msgs/Wrench", "fields": ["force.z"]}


def contract(success=None, failure=None):
    outcome = OutcomeSpec("time_to_success", success=success, failure=failure, labels="labels.yaml")
    return replace(CONTRACT, outcome=outcome)


@pytest.mark.parametrize("seconds", ["", " for 0.05 s", " for 0.12 s"])
@pytest.mark.parametrize("name", ["success", "failure"])
def test_a_field_test_ends_an_episode_when_training_says_so(name, seconds):
    """400 random streams of a force, with gaps that break a test off."""
    random = np.random.default_rng(0)
    source = EndSource(**FORCE, test=f"force.z > 1{seconds}", max_age=0.09)
    ours = contract(**{name: source})
    ended = 0
    for _ in range(400):
        stamp = START + np.cumsum(random.choice([20, 40, 100], 12)) * 1_000_000
        values = random.choice([0.0, 2.0], (12, 1), p=[0.3, 0.7])
        theirs = ending({name: Stream(stamp, stamp, values)}, ours, None, False, Counter())
        follow = Ending(ours)
        said = [follow.said(BagMessage(int(s), name, int(s), v)) for s, v in zip(stamp, values)]
        first = int(stamp[said.index(True)]) if True in said else None
        assert first == theirs.at
        ended += first is not None
    assert 40 < ended <= 400


def test_a_test_that_goes_on_holding_is_said_once_until_another_episode():
    follow = Ending(contract(success=EndSource(**FORCE, test="force.z > 1", max_age=1.0)))
    over = [
        follow.said(BagMessage(START + k * PERIOD, "success", START + k * PERIOD, np.array([2.0])))
        for k in range(5)
    ]
    assert over == [True, False, False, False, False]
    follow.anew()
    assert follow.said(
        BagMessage(START + 5 * PERIOD, "success", START + 5 * PERIOD, np.array([2.0]))
    )


@pytest.mark.parametrize(
    "name, value, ends",
    [("success", 1.0, True), ("success", 0.0, True), ("failure", 0.0, False), ("failure", 2.0, True),
     ("success", np.nan, False), ("arm", 1.0, False)],
)  # fmt: skip
def test_a_plain_outcome_ends_an_episode_as_in_training(name, value, ends):
    plain = EndSource("done", "std_msgs/Float64", ("data",))
    follow = Ending(contract(success=plain, failure=replace(plain, topic="failed")))
    assert follow.said(BagMessage(START, name, START, np.array([value]))) is ends


def test_a_clock_that_jumps_back_begins_a_test_anew(tmp_path):
    """As of a simulator that is reset: the time before it is not waited for."""
    ended = []
    wrench = EndSource(**FORCE, test="force.z > 1 for 0.1 s")
    player = Player(contract(success=wrench), [], 5, lambda segment, _: ended.append(segment.ended))
    state = {o.name: np.zeros(len(o.labels)) for o in CONTRACT.observations}

    def second(begin):
        for k in range(20):
            at = begin + k * PERIOD
            for name, values in (*state.items(), ("arm", np.zeros(2))):
                yield BagMessage(at, name, at, values)
            yield BagMessage(at, "success", at, np.array([2.0 * (k > 10)]))

    player.play([*second(START + 1000 * SECOND), *second(START)])
    assert ended.count(True) == 2 and player.jumps == 1
