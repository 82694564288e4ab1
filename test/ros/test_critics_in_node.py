"""Every kind of critic, trained on recorded arm episodes, exported, and run by the real node.

Not how well it acts (150 updates): that each trains, leaves through the same sampler, and that
the node commands the simulated arm with it and says finite Q values in the range they belong to.
"""

import dataclasses
import json
import math
import time

import pytest
import ros_harness as ros
import yaml
from qgf_make import SCALE

from qgf_ros.sim.world import world_folder
from qgf_ros.spaces.contract import Contract
from training.export import parity
from training.export import write as export
from training.learn.config import FitConfig
from training.learn.fit import fit_episodes
from training.pipeline.readers.load import load_episodes
from training.pipeline.record import record

TINY = FitConfig(hidden=(32, 32), steps=150, denoise_steps=2, workers=1)
FIVE = {"bounded": True, "members": 5, "aggregation": "mean-1std"}
CASES = {
    "iql": ("reward", {}),
    "sarsa": ("reward", {"critic": "sarsa"}),
    "monte_carlo": ("reward", {"critic": "monte_carlo"}),
    "bounded": ("time_to_success", FIVE),
    "goals": ("reach_goal", {"bounded": True}),
}


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "bags"
    record(folder, "planar_arm", 16, episodes_per_bag=16)
    return folder


def contract_of(objective):
    """The arm's contract with another objective.

    The arm does not observe its tip, so a goal is one for the joints here: two angles on the
    topic `goal`. What the simulation says on it is another pair of numbers, which is as good.
    """
    content = yaml.safe_load((world_folder("planar_arm") / "contract.yaml").read_text())
    outcome = content["outcome"]
    outcome["objective"] = objective
    if objective != "reward":
        del outcome["reward"]
    if objective == "reach_goal":
        achieved = ["joints.position.shoulder", "joints.position.elbow"]
        outcome["goal"] = {"observation": "goal", "achieved": achieved, "radius": 0.1}
    return Contract.from_dict(content)


# Each takes 20 s, and the node knows no difference between these critics: all of them at full counts.
@pytest.mark.parametrize("case", CASES if SCALE > 1 else ["bounded", "goals"])
def test_the_node_drives_the_arm_with_it(case, bags, domain, tmp_path, monkeypatch):
    objective, changes = CASES[case]
    own = contract_of(objective)
    began = time.monotonic()
    episodes, _ = load_episodes(bags, own)
    config = dataclasses.replace(TINY, **changes)
    folder = fit_episodes(episodes[:13], episodes[13:], own, tmp_path, config, {}).policy
    monkeypatch.setattr(parity, "ROUNDS", 1)  # its parity has tests of its own
    assert export.export(folder).largest_error <= 1
    trained = time.monotonic()
    listener = ros.FakeRobot(domain)  # listens, says nothing: it judges the commands
    node = ros.Proc(
        [
            *ros.node_command(),
            *ros.ros_args(policy=folder, use_sim_time=True, enable_on_start=True),
        ],
        domain,
    )
    sim = None
    try:
        node.wait_line("qgf: READY")
        results = tmp_path / "results.jsonl"
        arguments = ros.ros_args(real_time_factor=3.0, seed=100, results=results)
        sim = ros.Proc([*ros.node_command("qgf_sim"), *arguments], domain)
        listener.wait(lambda: len(listener.q_values) >= 5, 15, "Q values", node)
        moved = listener.wait_commands(20)
        assert any(max(map(abs, c.values)) > 0.01 for c in moved)
        for said in (v.msg for v in listener.q_values):
            numbers = (
                said.q_sampled,
                said.q_unguided,
                said.ensemble_spread,
                said.gradient_norm,
                said.guidance_ratio,
            )
            assert all(map(math.isfinite, numbers)) and 0 < said.beta < math.inf
            assert said.gradient_norm > 0 and said.ensemble_spread >= 0
            if config.bounded:
                assert -1 < said.q_sampled < 1 and said.ensemble_spread <= 0.5
        listener.refuse_violations()
        print(
            f"{case}: {trained - began:.1f} s to train and export, "
            f"{time.monotonic() - trained:.1f} s in the node; "
            + json.dumps({"q": round(listener.q_values[-1].msg.q_sampled, 3)})
        )
        node.stop()
    finally:
        for proc in filter(None, (node, sim)):
            proc.close()
        listener.close()
