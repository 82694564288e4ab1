"""The golden vectors of the authors' code, and that the check can tell right from wrong.

The made-up vector is computed here a second time, in float64 numpy with finite differences for
gradients, so that a true file is true for another reason than our own code.
"""

import functools
import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"

spec = importlib.util.spec_from_file_location("golden_check", HERE / "check.py")
assert spec and spec.loader
golden_check = importlib.util.module_from_spec(spec)
sys.modules["golden_check"] = golden_check
spec.loader.exec_module(golden_check)

SCALE = int(os.environ.get("QGF_TEST_SCALE", "1"))
FILES = sorted(DATA.glob("*.npz"))
assert len(FILES) == 2, "the authors' vectors are part of the repository"


def exporter():
    """Whether all that is needed for an export is here."""
    return all(importlib.util.find_spec(name) for name in ("onnxruntime", "onnxscript"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_golden_vectors_of_the_authors_code(path, monkeypatch):
    """To export takes longer than all the rest: of one of them in `make test`, the one with the
    longer chunk."""
    with_onnx = exporter() and (SCALE > 1 or path.stem == "chunked")
    if not with_onnx:
        monkeypatch.setattr(golden_check, "_onnx", lambda module: None)
    rows = golden_check.check(path)
    print(golden_check.table(path, rows))
    assert not [row for row in rows if not row.ok]
    names = {row.quantity.split(" w=")[0] for row in rows}
    assert {"qgf", "qgf (explicit)", "qgf_jacobian", "ood", "value after 5 updates"} <= names
    assert ("qgf (onnx)" in names) == bool(with_onnx)


OBS, HORIZON, ACTION, HIDDEN, STEPS, CANDIDATES = 3, 2, 2, (12, 9), 4, 3
CHUNK = HORIZON * ACTION
Weights = dict[str, np.ndarray]


def random_weights(rng, prefix: str, sizes: list[int], norms: int, lead=()) -> Weights:
    """Layers between `sizes` and that many layer norms, in Flax naming."""

    def near(mean, *shape):
        return np.float32(mean + 0.2 * rng.standard_normal((*lead, *shape)))

    w: Weights = {}
    for i, (rows, columns) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        w[f"{prefix}Dense_{i}/kernel"] = near(0, rows, columns) * np.float32(4 / math.sqrt(rows))
        w[f"{prefix}Dense_{i}/bias"] = near(0, columns)
    for i, width in enumerate(sizes[1 : 1 + norms]):
        w[f"{prefix}LayerNorm_{i}/scale"] = near(1, width)
        w[f"{prefix}LayerNorm_{i}/bias"] = near(0, width)
    return w


def forward(w: Weights, prefix: str, x: np.ndarray, output: str, member=()) -> np.ndarray:
    """One MLP in float64: linear, layer norm where there is one, GELU; then the output layer."""

    def get(name):
        return w[name][member].astype(np.float64)

    for i in range(len(HIDDEN)):
        x = x @ get(f"{prefix}Dense_{i}/kernel") + get(f"{prefix}Dense_{i}/bias")
        if f"{prefix}LayerNorm_{i}/scale" in w:
            x = x - x.mean(-1, keepdims=True)
            x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
            x = x * get(f"{prefix}LayerNorm_{i}/scale") + get(f"{prefix}LayerNorm_{i}/bias")
        x = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x @ get(f"{output}/kernel") + get(f"{output}/bias")


def velocity(w: Weights, obs, a, t) -> np.ndarray:
    phase = t.astype(np.float32) * np.float32(10_000)
    phase = phase.astype(np.float64)[:, None] * 10_000.0 ** (-np.arange(8) / 8)
    x = np.concatenate([obs, a, np.cos(phase), np.sin(phase)], axis=1)
    return forward(w, "policy/MLP_0/", x, "policy/Dense_0")


def q_members(w: Weights, net: str, obs, a) -> np.ndarray:
    prefix, x = f"{net}/value_net/", np.concatenate([obs, a], axis=1)
    kernel = w[f"{prefix}Dense_2/kernel"]
    each = range(len(kernel)) if kernel.ndim == 3 else [()]
    return np.stack([forward(w, prefix, x, f"{prefix}Dense_2", e)[:, 0] for e in each])


def value(w: Weights, obs) -> np.ndarray:
    return forward(w, "value/value_net/", obs, "value/value_net/Dense_2")[:, 0]


def difference(f, a: np.ndarray, eps=1e-6) -> np.ndarray:
    """The gradient of f: (B, D) -> (B,) by central differences."""
    steps = eps * np.eye(a.shape[1])
    return np.stack([(f(a + s) - f(a - s)) / (2 * eps) for s in steps], axis=1)


def sampled(w: Weights, how: str, obs, a, weight: float, estimator="qgf"):
    """Actions and their aggregated Q, by method.md's loop."""

    def q(x):
        return getattr(np, how)(q_members(w, "target_critic", obs, x), axis=0)

    for k in range(STEPS):
        t = np.full(len(a), k / STEPS)
        v = velocity(w, obs, a, t)

        def denoised(x, v, rest=1 - k / STEPS):
            return np.clip(x + rest * v, -1, 1)

        def q_of_noisy(x, t=t, denoised=denoised):
            return q(denoised(x, velocity(w, obs, x, t)))

        function, point = {
            "qgf": (q, denoised(a, v)),
            "ood": (q, a),
            "qgf_jacobian": (q_of_noisy, a),
        }[estimator]
        a = a + (v + weight * difference(function, point) if weight else v) / STEPS
    return np.clip(a, -1, 1), q(np.clip(a, -1, 1))


def losses(before: Weights, b: Weights, how: str) -> dict[str, Callable[[Weights], np.ndarray]]:
    """Each net's loss as a function of weights; whatever it does not train is as `before`."""
    obs, action = b["batch/observations"], b["batch/actions"].reshape(-1, CHUNK)
    noise, t = b["update/0/noise"], b["update/0/time"][:, None]
    next_v = value(before, b["batch/next_observations"][:, -1])
    y = b["batch/rewards"][:, -1] + 0.97**HORIZON * b["batch/masks"][:, -1] * next_v
    valid = b["batch/valid"][:, -1]
    low = getattr(np, how)(q_members(before, "target_critic", obs, action), axis=0)

    def of_policy(w):
        error = velocity(w, obs, (1 - t) * noise + t * action, t[:, 0]) - (action - noise)
        return (error**2).mean()

    def of_value(w):
        d = low - value(w, obs)
        return (valid * np.where(d < 0, 0.1, 0.9) * d**2).mean()

    return {
        "policy": of_policy,
        "critic": lambda w: (valid * (q_members(w, "critic", obs, action) - y) ** 2).mean(),
        "value": of_value,
    }


def after_one_update(w: Weights, loss_of: dict[str, Callable[[Weights], np.ndarray]]) -> Weights:
    """Adam's first step, g / (|g| + 1e-8), with g by central differences of the losses."""
    after = {name: array.astype(np.float64) for name, array in w.items()}
    for name in [n for n in w if not n.startswith("target_critic")]:
        moved, loss = w[name].astype(np.float64), loss_of[name.split("/")[0]]
        for at in np.ndindex(moved.shape):
            middle, sides = moved[at], []
            for eps in (1e-5, -1e-5):
                moved[at] = middle + eps
                sides.append(loss(w | {name: moved}))
            moved[at] = middle
            g = (sides[0] - sides[1]) / 2e-5
            after[name][at] -= 3e-4 * g / (abs(g) + 1e-8)
    for name in [n for n in w if n.startswith("target_critic")]:
        after[name] = 0.995 * w[name] + 0.005 * w[name.removeprefix("target_")]
    return after


@functools.cache
def computed(members: int, how: str) -> Weights:
    """A golden file of other sizes than the authors'; a single member comes unstacked."""
    rng = np.random.default_rng(members)

    def normal(*shape):
        return np.float32(rng.standard_normal(shape))

    lead, both = (members,) if members > 1 else (), OBS + CHUNK
    w = random_weights(rng, "policy/MLP_0/", [both + 16, *HIDDEN], len(HIDDEN) - 1)
    w |= random_weights(rng, "policy/", [HIDDEN[-1], CHUNK], 0)
    for net in ("critic", "target_critic"):
        sizes = [both, *HIDDEN, 1]
        w |= random_weights(rng, f"{net}/value_net/", sizes, len(HIDDEN), lead)
    w |= random_weights(rng, "value/value_net/", [OBS, *HIDDEN, 1], len(HIDDEN))

    B, rows = 6, 8
    out = dict(w, obs=normal(B, OBS), noise=normal(B, CHUNK))
    out["guidance_weights"] = np.array([0, 0.5, 2], np.float32)
    action = out["probe/action"] = normal(B, CHUNK)
    out["probe/time"] = np.abs(normal(B)) % 1
    out["probe/velocity"] = velocity(w, out["obs"], action, out["probe/time"])
    q = q_members(w, "target_critic", out["obs"], action)
    out["probe/q_members"] = q if members > 1 else q[0]
    out["probe/v"] = value(w, out["obs"])
    for estimator in ("qgf", "qgf_jacobian", "ood"):
        for i, weight in enumerate(out["guidance_weights"].tolist()):
            action, _ = sampled(w, how, out["obs"], out["noise"], weight, estimator)
            out[f"sample/{estimator}/{i}"] = action
    noise = out["best_of_n/noise"] = normal(B * CANDIDATES, CHUNK)
    for kind, weight in (("unguided", 0.0), ("guided", 0.5)):
        action, q = sampled(w, how, np.repeat(out["obs"], CANDIDATES, axis=0), noise, weight)
        best = np.arange(B), q.reshape(B, CANDIDATES).argmax(axis=1)
        out[f"best_of_n/{kind}"] = action.reshape(B, CANDIDATES, CHUNK)[best]
    b = {
        "batch/observations": normal(rows, OBS),
        "batch/actions": normal(rows, HORIZON, ACTION),
        "batch/next_observations": normal(rows, HORIZON, OBS),
        "batch/rewards": normal(rows, HORIZON),
        "batch/masks": np.float32(normal(rows, HORIZON) > -0.5),
        "batch/valid": np.float32(normal(rows, HORIZON) > -1),
        "update/0/noise": normal(rows, CHUNK),
        "update/0/time": np.abs(normal(rows)) % 1,
    }
    loss_of = losses(w, b, how)
    out |= b | {"update/losses_bc_critic_value": np.array([[f(w) for f in loss_of.values()]])}
    out |= {f"after1/{k}": array for k, array in after_one_update(w, loss_of).items()}
    return {name: np.asarray(array, np.float32) for name, array in out.items()}


def made_up(members: int, how: str) -> Weights:
    """As `computed`, with its `meta`; the arrays are the caller's to change."""
    meta = {
        "obs_dim": OBS,
        "action_dim": ACTION,
        "horizon": HORIZON,
        "hidden": HIDDEN,
        "num_q": members,
        "aggregation": how,
        "denoise_steps": STEPS,
        "discount": 0.97,
        "expectile": 0.9,
        "tau": 0.005,
        "lr": 3e-4,
        "num_candidates": CANDIDATES,
        "best_of_n_guidance_weight": 0.5,
    }
    arrays = {name: array.copy() for name, array in computed(members, how).items()}
    return arrays | {"meta": np.frombuffer(json.dumps(meta).encode(), np.uint8)}


def save(folder: Path, arrays: Weights) -> Path:
    np.savez(folder / "made_up.npz", **arrays)  # type: ignore[arg-type]
    return folder / "made_up.npz"


@pytest.fixture
def no_export(monkeypatch):
    """Without ONNX, of which one export per kind of ensemble is enough."""
    monkeypatch.setattr(golden_check, "_onnx", lambda module: None)


@pytest.mark.parametrize("members, aggregation", [(1, "min"), (2, "mean"), (3, "min"), (3, "mean")])
def test_a_true_file_of_any_sizes_passes(tmp_path, capsys, no_export, members, aggregation):
    path = save(tmp_path, made_up(members, aggregation))
    code = golden_check.main([str(path), "--json"])
    document = json.loads(capsys.readouterr().out)
    rows = {row["quantity"]: row for row in document["files"][0]["quantities"]}
    assert code == 0, [row for row in rows.values() if not row["ok"]]
    assert document["ok"] and rows["qgf_jacobian w=2"]["error"] < 1e-5
    assert rows["best of 3 guided w=0.5"]["of"] == 6


if SCALE > 1 and exporter():  # in `make test` one export is enough: that of the authors' vectors

    def test_onnx_is_checked_too(tmp_path):
        rows = {row.quantity: row for row in golden_check.check(save(tmp_path, made_up(2, "min")))}
        assert all(rows[f"qgf (onnx) w={w:g}"].ok for w in (0, 0.5, 2))


WRONG = {
    "probe/velocity": {"velocity"},
    "probe/q_members": {"q members"},
    "probe/v": {"v"},
    "sample/qgf/2": {"qgf w=2", "qgf (explicit) w=2"},
    "sample/ood/0": {"ood w=0"},
    "sample/qgf_jacobian/1": {"qgf_jacobian w=0.5"},
    "best_of_n/unguided": {"best of 3 unguided w=0"},
    "best_of_n/guided": {"best of 3 guided w=0.5"},
    "after1/value/value_net/Dense_1/kernel": {"value after 1 updates"},
    "after1/target_critic/value_net/LayerNorm_0/scale": {"target_critic after 1 updates"},
}


@pytest.mark.parametrize("by", [3e-4, math.nan])
@pytest.mark.parametrize("keys", [["probe/v"], list(WRONG)], ids=["one", "all"])
def test_one_wrong_number_of_an_array_is_found_and_no_other_array_is_blamed(
    tmp_path, capsys, no_export, keys, by
):
    """Nothing is computed from these arrays: each is only compared, so many may be wrong at once."""
    arrays = made_up(2, "mean")
    for key in keys:
        arrays[key].flat[-1] += by
    assert golden_check.main([str(save(tmp_path, arrays))]) == 8
    out, err = capsys.readouterr()
    failed = {line.split("  ")[0] for line in out.splitlines() if line.endswith("FAILED")}
    assert failed == set().union(*(WRONG[key] for key in keys))
    assert err.startswith("qgf: error[8]: ") and all(quantity in err for quantity in failed)


def test_ties_are_left_out_and_counted(tmp_path, no_export):
    """Two members that are the same: everything that is differentiated is a tie."""
    arrays = made_up(2, "min")
    for name, array in arrays.items():
        if "critic/" in name:
            array[1] = array[0]
    rows = {row.quantity: row for row in golden_check.check(save(tmp_path, arrays))}
    assert rows["qgf w=0.5"].left_out == 6 and rows["qgf w=0.5"].error is None
    assert not rows["qgf w=0.5"].ok, "nothing compared is nothing shown"
    assert rows["qgf w=0"].left_out == 0 and rows["qgf w=0"].ok


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda a: a.pop("meta"), "it has no 'meta'"),
        (lambda a: a.pop("noise"), "it has no numbers called 'noise'"),
        (lambda a: a.pop("policy/Dense_0/bias"), "policy/Dense_0/bias"),
        (lambda a: a.update(noise=a["noise"][:, 1:]), "noise has shape"),
        (lambda a: a.update({"sample/magic/0": a["noise"]}), "unknown here: ['magic']"),
        (lambda a: a.update(meta=np.frombuffer(b"{", np.uint8)), "Expecting"),
    ],
)
def test_a_file_that_is_no_golden_vector(tmp_path, capsys, no_export, damage, message):
    arrays = made_up(1, "min")
    damage(arrays)
    assert golden_check.main([str(save(tmp_path, arrays))]) == 5
    err = capsys.readouterr().err
    assert err.startswith("qgf: error[5]: ") and message in err and err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["missing.npz"]])
def test_how_it_is_used_is_said(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        golden_check.main(arguments)
    assert ended.value.code == 2 and "usage: " in capsys.readouterr().err


def test_the_script_by_itself(tmp_path):
    """From another folder, without PYTHONPATH: a foreign file."""
    foreign = tmp_path / "foreign.npz"
    foreign.write_text("not an archive")
    command = [sys.executable, str(HERE / "check.py"), str(foreign)]
    refused = subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True)
    assert refused.returncode == 5
    assert refused.stderr.startswith("qgf: error[5]: it is no npz archive")
