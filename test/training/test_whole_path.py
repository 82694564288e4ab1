"""From recorded bags to a guided sampler, small: what `qgf demo` does at full size."""

import csv
import json
import math
import os
import subprocess

import numpy as np
import pytest

from qgf_ros.cli import main
from qgf_ros.control.chunk import draw_noise
from qgf_ros.guidance.backends.native import NativeSampler
from qgf_ros.guidance.backends.onnx import OnnxSampler
from qgf_ros.guidance.registry import make_sampler
from qgf_ros.policy.folder import load_policy, write_policy
from qgf_ros.sim.world import world_folder
from qgf_ros.spaces.contract import Contract
from training.export import parity as parity_module
from training.export.parity import networks, parity
from training.export.write import export
from training.judge.evaluate import Variant, evaluate
from training.learn.config import SELECT_SEEDS, FitConfig
from training.learn.fit import fit
from training.pipeline.episodes import data_hash
from training.pipeline.readers.load import load_episodes
from training.pipeline.record import record

SCALE = int(os.environ.get("QGF_TEST_SCALE", "1"))
CONTRACT = world_folder("planar_arm") / "contract.yaml"
TINY = FitConfig(hidden=(32, 32), steps=300, workers=1)


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "bags"
    outcomes = record(folder, "planar_arm", 60, episodes_per_bag=30)
    assert sum(outcomes.values()) == 60
    return folder


@pytest.fixture(scope="module")
def run(bags, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    fitted = fit(bags, CONTRACT, out, TINY)
    export(fitted.policy)
    return out


def test_recording_is_repeatable_and_does_not_depend_on_the_number_of_processes(bags, tmp_path):
    record(tmp_path / "again", "planar_arm", 6, episodes_per_bag=3, workers=2)
    contract = Contract.load(CONTRACT)
    first, _ = load_episodes(bags, contract)
    second, _ = load_episodes(tmp_path / "again", contract, workers=2)
    assert data_hash(first[:6]) == data_hash(second) and len(second) == 6


def test_about_half_of_the_teacher_s_episodes_fail_and_all_are_read(bags):
    episodes, report = load_episodes(bags, Contract.load(CONTRACT))
    failures = sum(e.success is False for e in episodes)
    assert 15 <= failures <= 45
    assert len(episodes) == 60 and all(e.terminal for e in episodes)
    # Rewards of a failure: -0.1 per period and -10 once, on the last tick.
    for e in episodes:
        expected = -0.1 * round(-(e.reward.sum() + 10 * (e.success is False)) / 0.1)
        assert e.reward.sum() == pytest.approx(expected - 10 * (e.success is False), abs=1e-6)
        assert (e.reward[-1] < -9) == (e.success is False)


def test_commands_lead_the_states_they_cause(bags):
    """Paired by the time law, action k moves the joints between tick k and tick k + 1."""
    episodes, _ = load_episodes(bags, Contract.load(CONTRACT))
    moved = np.concatenate([np.diff(e.obs[:, :2], axis=0)[:-1] for e in episodes]) / 0.05
    action = np.concatenate([e.action[:-1] for e in episodes])

    def error(shift):
        a, m = (action[shift:], moved[: len(moved) - shift]) if shift > 0 else (action, moved)
        a, m = (action[:shift], moved[-shift:]) if shift < 0 else (a, m)
        return np.abs(a - m).mean()

    assert error(0) < error(1) and error(0) < error(-1)
    assert error(0) < 0.15  # rad/s; the rest is the servo's lag and the stamps' jitter


def test_the_policy_says_where_it_comes_from_and_logs_are_written(run):
    policy = load_policy(run / "policy")
    d = policy.description
    assert d.provenance["data"]["episodes"] == 60
    assert d.provenance["config"]["steps"] == 300
    assert d.contract == json.loads(json.dumps(Contract.load(CONTRACT).to_dict()))
    assert 0 < d.beta.min < min(d.beta.suggested) <= d.beta.default <= max(d.beta.suggested)
    groups = json.loads((run / "split.json").read_text())
    names = [n for group in groups.values() for n in group]
    assert len(names) == len(set(names)) == 60 and min(map(len, groups.values())) >= 5
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert float(rows[-1]["flow_loss"]) < float(rows[0]["flow_loss"])
    assert any((run / "tensorboard").iterdir())


def test_training_is_repeatable_to_the_bit(bags, run, tmp_path):
    again = fit(bags, CONTRACT, tmp_path, TINY)
    a, b = load_policy(run / "policy"), load_policy(again.policy)
    for part in ("velocity", "critic"):
        for name, tensor in getattr(a, part).items():
            assert np.array_equal(tensor, getattr(b, part)[name]), name


def test_a_sampler_of_other_weights_does_not_pass_the_parity_check(run, tmp_path, monkeypatch):
    """With few inputs: the export has passed with all of them. That nothing is written then is shown
    in test_export_parity.py."""
    monkeypatch.setattr(parity_module, "ROUNDS", 1)
    monkeypatch.setattr(parity_module, "KINDS", ("all",))
    policy = load_policy(run / "policy")
    off = {k: v.copy() for k, v in policy.velocity.items()}
    # One column: the layer norm takes out whatever all of them share.
    off["layers.0.weight"][..., 0] += np.float32(0.01)
    d = policy.description
    tensors = {d.velocity.file: off, d.critic.file: policy.critic}
    write_policy(tmp_path / "other", d, tensors, {"sampler.onnx": policy.onnx})
    other = load_policy(tmp_path / "other")
    fresh, stale = parity(other, NativeSampler(other), OnnxSampler(other, "cpu"))
    assert fresh.largest_error <= 1 < stale.largest_error
    assert parity(policy, OnnxSampler(policy, "cpu"))[0].largest_error <= 1


def test_the_exported_sampler_is_unguided_to_the_bit_at_infinite_beta(run):
    policy = load_policy(run / "policy")
    sampler = make_sampler(policy, device="cpu")
    rng = np.random.default_rng(0)
    for stamp in range(20 * SCALE):
        obs = rng.standard_normal(policy.obs_dim).astype(np.float32)
        drawn = sampler(obs, draw_noise(0, stamp, 3, policy.flat_dim), 0.0)
        assert np.array_equal(drawn.action, drawn.action_unguided)
        assert np.array_equal(drawn.q, drawn.q_unguided)
        assert (drawn.guidance_ratio == 0).all()


def test_evaluation_does_not_depend_on_the_number_of_processes(run):
    variants = [Variant("unguided", math.inf), Variant("qgf", 0.1)]
    one = evaluate(run / "policy", "planar_arm", variants, 2, SELECT_SEEDS)
    two = evaluate(run / "policy", "planar_arm", variants, 2, SELECT_SEEDS, workers=2)
    assert [e.success for e in one] == [e.success for e in two]
    for a, b in zip(one, two):
        assert all(np.array_equal(p, q) for p, q in zip(a.paths, b.paths))


def test_networks_come_back_as_they_were_trained(run):
    policy = load_policy(run / "policy")
    velocity, critic = networks(policy)
    assert {k: tuple(v.shape) for k, v in velocity.mlp.state_dict().items()} == {
        k: v.shape for k, v in policy.velocity.items() if k != "time_embedding"
    }
    assert len(critic.mlp.layers) == len(TINY.hidden) + 1


# Bad input, as a user meets it: a clear last line, the exit code, no traceback.


def qgf(*arguments):
    done = subprocess.run(
        ["qgf", *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout, done.stderr.strip()


@pytest.mark.parametrize(
    "case, code, words",
    [
        ("missing bag", 5, "does not exist"),
        ("missing topic", 5, "no topic 'goal'"),
        ("unknown key", 2, "'horizont'; did you mean 'horizon'?"),
        ("changed byte", 4, "was changed"),
        ("no policy", 4, "not a folder"),
    ],
)
def test_bad_input_is_named_and_ends_with_its_code(case, code, words, bags, run, tmp_path, capfd):
    contract = CONTRACT
    data = bags
    if case == "missing bag":
        data = tmp_path / "nothing"
    if case == "missing topic":
        from qgf_ros.bags.sources import contract_sources
        from training.pipeline.writers.bag import BagWriter

        sources = contract_sources(Contract.load(CONTRACT))
        del sources["goal"]
        data = tmp_path / "bag"
        with BagWriter(data, sources) as bag:
            bag.write("joints", 1, 1, np.zeros(4))
    if case == "unknown key":
        contract = tmp_path / "contract.yaml"
        contract.write_text(CONTRACT.read_text().replace("horizon:", "horizont:"))
    if case in ("changed byte", "no policy"):
        folder = tmp_path / "policy"
        if case == "changed byte":
            import shutil

            shutil.copytree(run / "policy", folder)
            file = folder / "critic.safetensors"
            raw = bytearray(file.read_bytes())
            raw[len(raw) // 2] ^= 1
            file.write_bytes(raw)
        arguments = ("export", folder)
    else:
        arguments = ("train", data, "--contract", contract, "--out", tmp_path / "out")
    # Here; test_json_is_one_document_on_stdout has the process of its own.
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    actual, (out, err) = ended.value.code, capfd.readouterr()
    assert actual == code
    assert (
        err.splitlines()[-1].startswith(f"qgf: error[{code}]: ") and words in err.splitlines()[-1]
    )
    assert "Traceback" not in err and out == ""


def test_json_is_one_document_on_stdout(tmp_path):
    """As processes of their own: one that succeeds, and one that does not."""
    command = "record", "--out", tmp_path / "bags", "--episodes", 2, "--workers", 1, "--json"
    code, out, err = qgf(*command)
    assert code == 0
    assert sum(json.loads(out)["outcomes"].values()) == 2
    code, out, err = qgf(*command)
    assert code == 2 and out == "" and "Traceback" not in err
    assert err.splitlines()[-1].startswith("qgf: error[2]: ") and "exists already" in err


def test_samplers_are_compared_side_by_side(capfd):
    main(
        [
            "evaluate",
            "planar_arm",
            "--episodes",
            "3",
            "--candidates",
            "2",
            "--workers",
            "1",
            "--json",
        ]
    )
    document = json.loads(capfd.readouterr().out)
    assert [(s["sampler"], s["episodes"]) for s in document["samplers"]] == [
        ("unguided", 3),
        ("qgf", 3),
        ("best-of-2", 3),
    ]
    low, high = document["samplers"][1]["interval"]
    assert 0 <= low < high <= 1


@pytest.mark.parametrize(
    "options, code, words",
    [
        (("--beta", "1e-6"), 2, "floor"),
        (("--world", "ur5e_cube"), 4, "does not fit"),  # a policy of another robot or task
    ],
)
def test_what_cannot_be_compared_is_refused(options, code, words, capfd):
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "planar_arm", *options, "--episodes", "1"])
    assert ended.value.code == code and words in capfd.readouterr().err.splitlines()[-1]
