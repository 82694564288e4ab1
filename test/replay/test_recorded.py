"""The tick table, without a node: chunks that come late, holds, and a beta that changes are done
again as they were. On the wire: test/ros/test_replay_of_a_node.py."""

import math
from dataclasses import replace

import numpy as np
import pytest
from qgf_make import START, LateInference
from qgf_replay import ARM, CONTRACT, PERIOD

pytest.importorskip("onnxruntime")

from qgf_ros.control.core import ControlCore
from qgf_ros.control.settings import resolve
from qgf_ros.control.supervisor import State
from qgf_ros.guidance.registry import make_sampler
from qgf_ros.policy.folder import load_policy
from qgf_ros.replay.events import BagMessage
from qgf_ros.replay.node_messages import CHUNK, TICK, ShownChunk, Tick
from qgf_ros.replay.recorded import Recorded

TOPICS = {o.name: o.topic for o in CONTRACT.observations}


def driven(delays, ticks=80, silent=range(0), seed=3):
    """What a node would have left in its bag, from its start, and the policy and sampler it had."""
    policy = load_policy(ARM)
    sampler = make_sampler(policy, device="cpu")
    inference = LateInference(sampler, delays)
    given = {"seed": seed, "guidance.slew": 0.0}
    core = ControlCore(policy, inference, resolve(given, policy), enabled=True)
    rng, said, late = np.random.default_rng(0), [], 0
    for k in range(ticks):
        now = START + k * PERIOD
        core.apply(replace(core.settings, beta=(0.1, math.inf, 0.03)[k // 30]))
        state = {"joints": [-0.1, 0.8, 0, 0], "goal": [-0.65, 0.0], "obstacle": [0.0, 0.45]}
        for name, values in state.items() if k and k not in silent else ():
            values = np.array(values) + 0.01 * rng.normal(size=len(values))
            said.append(BagMessage(now - 1000, name, now - 2000, values))
            core.assembler.push(name, now - 2000, now - 1000, values)
        result = core.tick(now)
        inference.advance()
        if result.sampled is not None:
            chunk = result.sampled.chunk
            late += chunk.start < now
            said.append(
                BagMessage(
                    now, CHUNK, 0, ShownChunk(chunk.start, CONTRACT.action_names, chunk.actions)
                )
            )
        stamps = dict(zip(TOPICS.values(), result.stamps))
        out = result.output.values
        sent = {} if out is None else dict(zip(CONTRACT.action_names, out))
        row = Tick(now, k, result.state, core.epoch, core.beta, core.samples, stamps, sent)
        said.append(BagMessage(now, TICK, 0, row))
    return said, late, policy, sampler


@pytest.mark.parametrize(
    "delays, silent",
    [
        (lambda i: 0, range(0)),
        (lambda i: i % 3, range(0)),  # two of three chunks come after the tick that asked for them
        (lambda i: i % 2, range(35, 45)),  # and the state stops for half a second
    ],
    ids=["in time", "late", "late, with a hold"],
)
def test_fault_065_the_recorded_ticks_give_the_same_chunks_and_commands(delays, silent):
    said, late, policy, sampler = driven(delays, silent=silent)
    again = Recorded(policy, sampler, resolve({"seed": 3}, policy))
    passed = list(again.watch(said))
    assert [s for s in passed if s.name in (TICK, CHUNK)] == []
    found = again.found
    assert (late > 3) == (delays(1) > 0)
    assert found.chunks == sum(s.name == CHUNK for s in said) >= 10
    assert found.chunks_same == found.chunks and found.chunks_not_compared == 0
    assert found.commands == found.commands_same >= 60
    assert found.command_difference == found.chunk_difference == 0
    assert not found.held and not found.inexact and not found.joined


def test_a_message_that_the_recorder_lost_is_counted_and_shows():
    said, _, policy, sampler = driven(lambda i: 0)
    chosen = [s for s in said if s.name == "joints"][5]  # the observation of the second chunk
    again = Recorded(policy, sampler, resolve({"seed": 3}, policy))
    list(again.watch(s for s in said if s is not chosen))
    assert again.found.inexact == 1
    assert again.found.chunks_same == again.found.chunks - 1
    assert 0 < again.found.chunk_difference < 0.5


def test_the_rest_of_a_stop_that_began_before_the_recording_is_not_compared():
    """As in the bag of an episode that begins while the robot still brakes."""
    said, _, policy, sampler = driven(lambda i: i % 2, silent=range(35, 45))
    braking = [
        k for k, s in enumerate(said)
        if s.name == TICK and s.values.state is State.HOLD and s.values.sent
    ]  # fmt: skip
    again = Recorded(policy, sampler, resolve({"seed": 3}, policy))
    list(again.watch(said[braking[1] :]))
    found = again.found
    assert found.joined == len(braking) - 1 >= 1
    assert found.commands == found.commands_same >= 20
    assert found.chunks == found.chunks_same >= 4
