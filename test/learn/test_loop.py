"""Runs that are interrupted, poisoned, doubled or distributed: nothing is lost and nothing differs."""

import contextlib
import csv
import json
import math
import os
import signal
import sys
import time
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from full_disk import full_at
from qgf_make import SCALE, contract, velocity_dict

from qgf_ros.errors import CriterionNotMet, DataRefused, UsageError, exit_codes
from qgf_ros.policy.folder import load_policy
from qgf_ros.spaces.actions.codec import ActionCodec
from qgf_ros.spaces.normalizer import Normalizer
from training.learn import checkpoint, loop
from training.learn.batches import Recorded
from training.learn.config import FitConfig
from training.learn.critics import sarsa
from training.learn.critics.base import CriticConfig, Learner
from training.learn.distributed import World, joined
from training.learn.fit import fit_episodes
from training.learn.models import Critic, Value, VelocityField
from training.pipeline.chunks import ChunkTable
from training.pipeline.episodes import Episode

CONTRACT = contract(velocity_dict())
GOAL = contract(
    velocity_dict()
    | {
        "outcome": {
            "objective": "reach_goal",
            "goal": {"observation": "goal", "achieved": ["joints.position.a"], "radius": 0.1},
        }
    }
)
CONFIG = FitConfig(
    hidden=(8,), steps=60, batch=16, denoise_steps=2, warmup=5, checkpoint_every=7, average=0.9
)


def episodes(count=12, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Episode(
            f"e{k}",
            rng.normal(size=(41, 5)),
            rng.uniform(-1, 1, size=(40, 2)),
            rng.normal(size=40),
            terminal=k % 3 > 0,
            success=[None, True, False][k % 3],
        )
        for k in range(count)
    ]


DATA = episodes()


def train(out, config=CONFIG, own=CONTRACT, data=DATA):
    return fit_episodes(data[:9], data[9:], own, out, config, {}).policy


def weights(policy):
    loaded = load_policy(policy)
    return {
        f"{name}.{key}": value
        for name, part in (("velocity", loaded.velocity), ("critic", loaded.critic))
        for key, value in part.items()
    }


def same(a, b):
    one, other = weights(a), weights(b)
    assert one.keys() == other.keys()
    return all(np.array_equal(one[k], other[k]) for k in one)


class Interrupted(Exception):
    pass


@contextlib.contextmanager
def interrupted_before(monkeypatch, step):
    """The update raises, as a pressed Ctrl-C or a full disk would."""
    honest = loop.draw

    def draw(batches, config, k, world):
        if k == step:
            raise Interrupted
        return honest(batches, config, k, world)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(loop, "draw", draw)
        yield


@pytest.mark.parametrize(
    "own, critic", [(CONTRACT, "iql"), (CONTRACT, "monte_carlo"), (GOAL, "sarsa")]
)
def test_fault_089_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    tmp_path, monkeypatch, own, critic
):
    config = replace(CONFIG, critic=critic)
    whole = train(tmp_path / "whole", config, own)
    for step in (5, 20, 45, 59):  # before the first checkpoint, between two, in the second half
        with interrupted_before(monkeypatch, step):
            train(tmp_path / "parts", config, own)
        assert not (tmp_path / "parts" / "policy").exists()
        assert (tmp_path / "parts" / checkpoint.FILE).exists() == (step > 7)
    parts = train(tmp_path / "parts", config, own)
    assert same(whole, parts)
    assert not (tmp_path / "parts" / checkpoint.FILE).exists(), "done is done"


def test_the_log_of_a_resumed_run_has_every_row_once(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 2)
    train(tmp_path / "whole")
    with interrupted_before(monkeypatch, 33):
        train(tmp_path / "parts")
    with (tmp_path / "parts" / "metrics.csv").open("a") as file:
        file.write("36,0.1")  # cut off as the process was killed
    train(tmp_path / "parts")
    one, other = (
        list(csv.DictReader((tmp_path / name / "metrics.csv").open()))
        for name in ("whole", "parts")
    )
    seconds = [float(row.pop("seconds")) for row in other]
    assert seconds == sorted(seconds) and all(float(row.pop("seconds")) >= 0 for row in one)
    assert one == other and [int(r["step"]) for r in one] == list(range(2, 61, 2))


def test_a_log_without_seconds_is_gone_on_with_as_it_is(tmp_path):
    from training.learn.logs import Logs

    (tmp_path / "metrics.csv").write_text("step,loss\n100,1.0\n200,2.0\n")
    with Logs(tmp_path, 100) as logs:
        logs.write(200, {"loss": 3.0})
    assert (tmp_path / "metrics.csv").read_text().split() == ["step,loss", "100,1.0", "200,3.0"]


def test_fault_090_another_configuration_or_other_data_is_refused_with_the_difference(
    tmp_path, monkeypatch
):
    with interrupted_before(monkeypatch, 20):
        train(tmp_path)
    before = (tmp_path / checkpoint.FILE).read_bytes()
    with pytest.raises(UsageError, match=r"settings.learning_rate: 0.001 then, 0.01 now"):
        train(tmp_path, replace(CONFIG, learning_rate=1e-2))
    with pytest.raises(UsageError, match=r"settings.hidden: \[8\] then, \[8, 8\] now"):
        train(tmp_path, replace(CONFIG, hidden=(8, 8)))
    with pytest.raises(UsageError, match="data: .* then, .* now"):
        train(tmp_path, data=episodes(seed=1))
    with pytest.raises(UsageError, match="contract: .* then, .* now"):
        train(tmp_path, own=GOAL)
    assert (tmp_path / checkpoint.FILE).read_bytes() == before
    train(tmp_path, replace(CONFIG, workers=3, checkpoint_every=11))  # changes nothing about it


@pytest.mark.parametrize("damage", [b"", b"\xff" * 100, None])
def test_a_damaged_checkpoint_is_named_and_what_to_do(tmp_path, monkeypatch, damage):
    with interrupted_before(monkeypatch, 20):
        train(tmp_path)
    file = tmp_path / checkpoint.FILE
    file.write_bytes(file.read_bytes()[:-10] if damage is None else damage)
    with pytest.raises(UsageError, match=r"checkpoint\.safetensors cannot be read.*remove it"):
        train(tmp_path)


def test_fault_091_a_poisoned_chunk_is_left_out_and_named(tmp_path, monkeypatch, capsys):
    """One row in a thousand is NaN by the time it is a batch."""
    clean = train(tmp_path / "clean")
    honest = loop.draw

    def draw(batches, config, k, world):
        rows, batch, noise, at = honest(batches, config, k, world)
        if k in (3, 30):
            batch.reward[0] = math.nan
        return rows, batch, noise, at

    monkeypatch.setattr(loop, "draw", draw)
    policy = train(tmp_path / "poisoned")
    said = capsys.readouterr().err
    assert "update 3: the gradient of chunks" in said and "update 30:" in said
    assert all(np.isfinite(w).all() for w in weights(policy).values())
    assert not same(policy, clean)


def test_fault_091_a_gradient_that_stays_nan_stops_with_the_last_good_state(tmp_path, monkeypatch):
    honest = loop.draw

    def draw(batches, config, k, world):
        rows, batch, noise, at = honest(batches, config, k, world)
        if k >= 25:
            batch.action[:] = math.inf
        return rows, batch, noise, at

    with monkeypatch.context() as patch:
        patch.setattr(loop, "draw", draw)
        with pytest.raises(
            CriterionNotMet, match=r"update 34: .*chunks \d+, \d+.*10 times"
        ) as info:
            train(tmp_path)
        assert info.value.code == 8
    tensors, facts = checkpoint.load(tmp_path)
    assert facts["step"] == 21 and all(t.isfinite().all() for t in tensors.values())
    assert same(train(tmp_path), train(tmp_path / "other")), "the cause is gone: as if it never was"


def test_fault_092_a_second_trainer_in_the_same_folder_is_refused(tmp_path):
    with checkpoint.only_trainer(tmp_path), pytest.raises(UsageError, match="another process"):
        train(tmp_path)
    train(tmp_path)


def test_fault_087_a_full_disk_leaves_the_old_checkpoint_whole(tmp_path):
    checkpoint.save(tmp_path, {"x": torch.zeros(100)}, {"step": 1})
    with pytest.raises(SystemExit) as info, full_at(10_000), exit_codes():
        checkpoint.save(tmp_path, {"x": torch.ones(100_000)}, {"step": 2})
    assert info.value.code == 7
    tensors, facts = checkpoint.load(tmp_path)
    assert facts["step"] == 1 and not tensors["x"].any()
    assert [p.name for p in tmp_path.iterdir()] == [checkpoint.FILE], "nothing half is left"


def _train_for_ever(out):
    """A child that saves after every update, and is killed."""
    os.setsid()
    sys.stderr = open(os.devnull, "w")
    train(out, replace(CONFIG, steps=100_000, checkpoint_every=1))


def test_fault_088_killed_at_any_moment_a_run_leaves_a_checkpoint_that_loads(tmp_path):
    """SIGKILL, 20 times (200 in `make test-long`): the run goes on each time from where it was."""
    train(tmp_path / "first", replace(CONFIG, steps=2))  # what torch imports late, each child has
    context, rng = get_context("fork"), np.random.default_rng(7)
    steps, cut_short = [0], 0
    for _ in range(20 * min(SCALE, 10)):
        child = context.Process(target=_train_for_ever, args=(tmp_path,))
        child.start()
        begun = time.monotonic()
        while time.monotonic() < begun + 30:  # it has to write once more, on however slow a machine
            with contextlib.suppress(UsageError, FileNotFoundError):
                if checkpoint.load(tmp_path)[1]["step"] > steps[-1]:
                    break
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.02))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        cut_short += any(p.suffix == ".tmp" for p in tmp_path.iterdir())
        tensors, facts = checkpoint.load(tmp_path)
        assert facts["step"] > steps[-1]
        assert all(t.isfinite().all() for t in tensors.values())
        steps.append(facts["step"])
    print(f"steps {steps}; {cut_short} killed in the middle of writing")
    # And what it went on to is what it would have been.
    config = replace(CONFIG, steps=100_000, checkpoint_every=1)
    learner = fresh_learner(tmp_path, config, steps[-1])
    tensors, _ = checkpoint.load(tmp_path)
    for key, value in learner.items():
        assert torch.equal(value, tensors[f"learner.{key}"]), key


def fresh_learner(out, config, step):
    """The state after `step` updates without interruption."""
    from training.learn import fit

    seen = {}

    def save(run, learner, best, k, identity):
        if k == step:
            seen.update({key: t.clone() for key, t in learner.state().items()})
            raise Interrupted

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(loop, "_save", save)
        fit.fit_episodes(DATA[:9], DATA[9:], CONTRACT, out / "fresh", config, {})
    return seen


def _one_of_two(out):
    """What `qgf train` does in each process that torchrun has started; the first notes its losses."""
    from training.learn import fit

    said, honest = [], loop.Logs.write
    loop.Logs.write = lambda self, step, values: (said.append(values), honest(self, step, values))
    loop.LOG_EVERY = 1
    with joined() as world:
        assert world.size == 2
        fit._fit(fit.Groups(DATA[:9], DATA[9:]), CONTRACT, out, CONFIG, {}, world)
    if world.first:
        (out / "said.json").write_text(json.dumps(said))


def _torchrun(function, *arguments):
    """torchrun --standalone --nproc-per-node=2, by its own launcher; its processes are forked, which
    spares them the import of torch."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, run_id="two", rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=0, monitor_interval=0.05, start_method="fork",
    )  # fmt: skip
    elastic_launch(config, function)(*arguments)


def test_two_processes_give_the_losses_of_one_with_the_doubled_batch(tmp_path, monkeypatch):
    """torchrun and gloo, as a user would."""
    (tmp_path / "two").mkdir()
    launcher = get_context("fork").Process(target=_torchrun, args=(_one_of_two, tmp_path / "two"))
    launcher.start()  # a process of its own: it takes the signals
    launcher.join(180)
    assert launcher.exitcode == 0
    two = json.loads((tmp_path / "two" / "said.json").read_text())
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    one = []
    monkeypatch.setattr(loop.Logs, "write", lambda self, step, values: one.append(values))
    train(tmp_path / "one", replace(CONFIG, batch=2 * CONFIG.batch))
    assert len(one) == len(two) == CONFIG.steps
    for a, b in zip(one, two):
        assert a == pytest.approx(b, rel=2e-3, abs=1e-5)
    first, second = weights(tmp_path / "one" / "policy"), weights(tmp_path / "two" / "policy")
    for key in first:
        np.testing.assert_allclose(first[key], second[key], rtol=2e-3, atol=2e-4)


# What an update does.


def learner(**settings):
    torch.manual_seed(0)
    nets = VelocityField(5, 6, (16,)), Critic(5, 6, (16,), 2), Value(5, (16,))
    return sarsa.Learner(*nets, CriticConfig(discount=0.9, horizon=3, **settings))


def batch(rows=12):
    from training.learn.critics.batch import ChunkBatch

    return ChunkBatch(
        torch.randn(rows, 5), torch.rand(rows, 6), torch.randn(rows), torch.ones(rows),
        torch.randn(rows, 5), torch.ones(rows),
    )  # fmt: skip


def test_long_gradients_are_shortened_net_by_net():
    one, other = learner(), learner(clip=1e-3)
    data, noise, at = batch(), torch.randn(12, 6), torch.rand(12)
    a, b = one.update(data, noise, at), other.update(data, noise, at)
    assert a["gradient_norm"] == b["gradient_norm"] > 1, "of before"
    for net, clipped in zip(one._trained, other._trained):
        grads = [torch.cat([p.grad.flatten() for p in n.parameters()]) for n in (net, clipped)]
        assert grads[1].norm() == pytest.approx(1e-3, rel=1e-3)
        torch.testing.assert_close(grads[1] / grads[1].norm(), grads[0] / grads[0].norm())


def test_the_flow_that_samples_is_the_average_of_its_weights():
    ours, data = learner(average=0.9), batch()
    torch.manual_seed(1)
    expected = torch.cat([p.detach().flatten() for p in ours.velocity.parameters()])
    for k in range(1, 30):
        ours.update(data, torch.randn(12, 6), torch.rand(12))
        decay = min(0.9, k / (k + 10))
        now = torch.cat([p.detach().flatten() for p in ours.velocity.parameters()])
        expected = decay * expected + (1 - decay) * now
    got = torch.cat([p.flatten() for p in ours.flow.parameters()])
    torch.testing.assert_close(got, expected)
    assert ours.flow is not ours.velocity and learner().flow is not None


def test_learning_rate_rises_and_falls():
    config = FitConfig(steps=1000, warmup=100, learning_rate=1.0 - 1e-9)
    rates = [loop.learning_rate(k, config) for k in range(1, 1001)]
    assert rates[0] == pytest.approx(0.01) and rates[99] == pytest.approx(1)
    assert rates[549] == pytest.approx(0.5, abs=0.01) and 0 < rates[-1] < 1e-5
    assert all(a >= b for a, b in zip(rates[99:], rates[100:]))
    level = replace(config, schedule="constant")
    assert loop.learning_rate(1000, level) == config.learning_rate
    short = FitConfig(steps=20, warmup=500)
    assert loop.learning_rate(2, short) == short.learning_rate, "a tenth of a short run"


def test_the_critic_with_the_smallest_held_out_error_is_kept(tmp_path, monkeypatch):
    errors, seen = {}, {}

    def td_error(own, select):
        step = own._steps
        errors[step] = abs(step - 45) + 1.0
        seen[step] = {k: t.clone() for k, t in own.target_critic.state_dict().items()}
        return errors[step]

    monkeypatch.setattr(Learner, "td_error", td_error)
    policy = train(tmp_path / "chosen")
    assert min(errors) > 30, "the first half does not count"
    got = load_policy(policy)
    assert got.description.provenance["select_metrics"]["critic_step"] == 45
    chosen = {k.removeprefix("mlp."): t.numpy() for k, t in seen[45].items()}
    assert all(np.array_equal(got.critic[k], chosen[k]) for k in chosen)
    last = load_policy(train(tmp_path / "last", replace(CONFIG, choose_critic=False)))
    assert last.description.provenance["select_metrics"]["critic_step"] == 60


def test_fault_097_fewer_chunks_than_a_batch_is_refused_at_once(tmp_path):
    with pytest.raises(DataRefused, match=r"\d+ chunks to train on, and a batch has 4000"):
        train(tmp_path, replace(CONFIG, batch=4000))
    short = [replace(e, obs=e.obs[:3], action=e.action[:2], reward=e.reward[:2]) for e in DATA]
    with pytest.raises(DataRefused, match="the chunk length of the contract"):
        train(tmp_path, data=[replace(e, terminal=False) for e in short])


def recorded():
    table = ChunkTable(DATA, CONTRACT.time.horizon, 0.99)
    parts = table.cut(np.arange(len(table)))
    normalizer = Normalizer.fit(parts.obs, parts.action.reshape(-1, 2))
    return Recorded(table, ActionCodec(CONTRACT, normalizer), 1.0, CONFIG)


def test_every_update_draws_from_seed_and_number_alone():
    """So that nothing needs to be remembered, and no two updates are alike."""
    batches = recorded()
    a, b, c = (loop.draw(batches, CONFIG, k, World())[0] for k in (5, 5, 6))
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    wide = replace(CONFIG, batch=2 * CONFIG.batch)
    rows, whole, noise, at = loop.draw(batches, wide, 5, World())
    for rank in (0, 1):
        part = loop.draw(batches, CONFIG, 5, World(rank, 2))
        half = slice(rank * CONFIG.batch, (rank + 1) * CONFIG.batch)
        assert np.array_equal(part[0], rows[half]) and torch.equal(part[2], noise[half])
        assert torch.equal(part[1].obs, whole.obs[half]) and torch.equal(part[3], at[half])


def test_noise_on_what_is_seen_is_the_flows_alone_and_changes_no_other_draw():
    batches = recorded()
    noisy = replace(CONFIG, observation_noise=0.2)
    rows, plain, *drawn = loop.draw(batches, CONFIG, 5, World())
    same, shaken, *again = loop.draw(batches, noisy, 5, World())
    assert np.array_equal(rows, same) and all(map(torch.equal, drawn, again))
    assert torch.equal(shaken.obs, plain.obs) and torch.equal(shaken.next_obs, plain.next_obs)
    off = (shaken.seen_by_flow - plain.seen_by_flow) / 0.2
    assert off.mean().abs() < 0.2 and 0.8 < off.std() < 1.2
    assert not torch.equal(
        loop.draw(batches, noisy, 6, World())[1].seen_by_flow, shaken.seen_by_flow
    )
