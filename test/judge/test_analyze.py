"""The analysis says what is so: closed forms where there are any, and the verb end to end."""

import json
import math
import subprocess
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from qgf_ros.cli import main
from qgf_ros.errors import DataRefused
from qgf_ros.policy.description import Beta
from qgf_ros.policy.folder import load_policy
from qgf_ros.sim.world import world_folder
from training.judge.analysis.base import Model, States
from training.judge.analysis.reach import distance, nearest, nested, reach
from training.judge.analysis.run import analyze, plain
from training.judge.analysis.sensitivity import sensitivity
from training.judge.analysis.stability import curvature, stability
from training.judge.pages.analysis_plot import draw
from training.judge.panels.held_out.figures import figures
from training.judge.subject import Subject, held_out
from training.learn.config import FitConfig
from training.learn.fit import fit
from training.learn.models import Critic, VelocityField, aggregate, time_table
from training.pipeline.readers.load import load_episodes
from training.pipeline.record import record
from training.sampling import best_of_n, sample

B, OBS, D, T = 24, 5, 6, 8
CONTRACT = world_folder("planar_arm") / "contract.yaml"


def model(velocity, q, bound=1.0, steps=T):
    """q: (obs, a) -> (B,), a critic of one member."""
    return Model(velocity, lambda s, a: q(s, a)[None], time_table(steps), bound=bound)


def still(obs: Tensor, a: Tensor, t: Tensor) -> Tensor:
    return torch.zeros_like(a)


def quadratic(hessian: Tensor):
    return lambda s, a: (a @ hessian * a).sum(-1) / 2


def symmetric(eigenvalues, seed=0):
    random = torch.Generator().manual_seed(seed)
    n = len(eigenvalues)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=random, dtype=torch.float64))
    return q @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ q.T


def states(rows=B, dims=D, episodes=6, seed=0, dtype=torch.float64):
    random = torch.Generator().manual_seed(seed)
    draw = lambda n: torch.randn(rows, n, generator=random, dtype=dtype)  # noqa: E731
    return States(draw(OBS), draw(dims).clamp(-1, 1), torch.arange(rows) % episodes)


def nets(seed=0):
    torch.manual_seed(seed)
    velocity, critic = VelocityField(OBS, D, (16, 16)), Critic(OBS, D, (16, 16), 2)
    for p in (*velocity.parameters(), *critic.parameters()):
        p.data.add_(0.3 * torch.randn_like(p))
        p.requires_grad_(False)
    return Model(velocity.double(), critic.double(), time_table(T))


# 1. Noise sensitivity.


def test_a_linear_critic_has_a_gradient_that_no_noise_turns():
    slope = torch.linspace(-1, 1, D, dtype=torch.float64)
    found = sensitivity(model(still, lambda s, a: a @ slope), states())
    for name in ("qgf", "qgf_chain", "ood"):
        curve = found.estimators[name]
        assert curve.overall.mean == pytest.approx(1, abs=1e-12)
        assert all(i.low > 1 - 1e-12 for row in curve.by_time for i in row)
        assert curve.zero == curve.not_finite == 0
        assert curve.norm_spread == pytest.approx(1)
    assert found.times == tuple(k / T for k in range(T))


def test_the_cosine_is_that_of_the_two_gradients():
    """Q = -|a|^2 / 2 asked at a_t itself: the angle between a and a + eps."""
    where, sigma = states(), 0.5
    found = sensitivity(model(still, quadratic(-torch.eye(D).double())), where, 3, [sigma])
    a, eps = where.noise(3), sigma * where.noise(4, T)
    expected = torch.cosine_similarity(a.expand_as(eps), a + eps, dim=-1)
    for k in range(T):
        mean = found.estimators["ood"].by_time[0][k].mean
        assert mean == pytest.approx(float(expected[k].mean()), abs=1e-9)
    assert found.estimators["ood"].overall.mean == pytest.approx(float(expected.mean()), abs=1e-9)


def test_gradients_that_the_clip_zeroes_are_counted_and_not_averaged():
    def away(obs, a, t):
        return torch.full_like(a, 20.0)

    found = sensitivity(model(away, lambda s, a: a.sum(-1)), states()).estimators
    for name in ("qgf_jacobian", "bptt"):
        assert found[name].zero == 1 and math.isnan(found[name].overall.mean)
    assert found["qgf"].zero == 0 and found["qgf"].overall.mean == pytest.approx(1)


def test_the_order_and_its_pairs_follow_the_means():
    found = sensitivity(replace(nets(), bound=100.0), states(rows=60))  # nothing saturates
    means = [found.estimators[n].overall.mean for n in found.order]
    assert means == sorted(means, reverse=True) and len(found.pairs) == 6
    assert found.reproduced == (
        tuple(n for n in found.order if n in found.paper_order) == found.paper_order
    )
    for p in found.pairs:
        a, b = (found.estimators[n].overall for n in (p.first, p.second))
        assert p.difference.mean == pytest.approx(a.mean - b.mean, abs=1e-9)
        assert p.overlap == (a.low <= b.high and b.low <= a.high)


# 2. Q reached, distance, best-of-N.


def test_best_of_n_never_falls_with_n_and_is_the_sampler_s():
    m, where = nets(), states()
    counts = (1, 2, 4, 8, 16)
    found = nested(m, where, counts, seed=5)
    for less, more in zip(found, found[1:]):
        assert bool((more.q >= less.q).all())
    assert bool((found[-1].q > found[0].q).any())
    rows = torch.cat([where.noise(5)[None], where.noise(7, 15)])
    for n, ours in zip(counts, found):
        noise = rows[:n].transpose(0, 1).flatten(0, 1)
        theirs = best_of_n(m.velocity, m.critic, where.obs, noise, n, steps=T)
        torch.testing.assert_close(ours.q, theirs.q)
        torch.testing.assert_close(ours.action, theirs.action)


def test_the_distance_of_recorded_chunks_to_themselves_is_zero():
    where = states()
    elsewhere = States(where.obs, where.action, where.episode + 100)  # no episode in common
    assert bool((distance(where.action, nearest(where, elsewhere, 4)) == 0).all())
    shifted = distance(where.action + 0.25, nearest(where, elsewhere, 1))
    torch.testing.assert_close(shifted, torch.full_like(shifted, 0.25))  # RMS per dimension


def test_a_state_is_compared_with_other_episodes_only():
    where = states(episodes=2)
    near = nearest(where, where, len(where))
    assert bool((distance(where.action, near) > 0).all())
    assert int(near.isfinite().all(-1).sum(1).max()) == B // 2  # the other episode, and filling
    with pytest.raises(DataRefused, match="at least two episodes"):
        nearest(states(episodes=1), states(episodes=1))


def test_weights_are_chosen_so_that_the_ratio_is_what_was_asked_for():
    """Constant flow c and slope g: rho = w |g| / |c|, the action a_0 + c + w g, Q known."""
    slope, c = torch.full((D,), 0.3, dtype=torch.float64), 0.1

    def drift(obs, a, t):
        return torch.full_like(a, c)

    where = states()
    found = reach(model(drift, lambda s, a: a @ slope, bound=100), where, where, [0.5, math.inf], 2)
    a = where.noise(2)
    for ratio, p in zip((0.125, 0.25, 0.5, 1, 2, 4, 8), found.guided["qgf"]):
        assert p.ratio == ratio and p.weight == pytest.approx(ratio * c / 0.3)
        assert p.guidance_ratio.mean == pytest.approx(ratio)
        assert p.q.mean == pytest.approx(float(((a + c + p.weight * slope) @ slope).mean()))
        assert p.gain.mean == pytest.approx(p.weight * float(slope @ slope))
    (own,) = found.at_policy_betas  # infinity is the unguided policy
    assert own.weight == 2 and own.ratio == pytest.approx(6)
    assert found.best_of_n[0].gain.mean == 0
    assert [p.best_of for p in found.best_of_n] == [1, 2, 4, 8, 16, 32]
    assert found.recorded.distance.mean == pytest.approx(
        float(distance(where.action, nearest(where, where)).mean())
    )


# 3. Stability.


@pytest.mark.parametrize(
    "eigenvalues",
    [
        [-7.0, -3.0, -1.0, 0.0, 2.0, 9.0],
        [-4.0] * 6,  # the Krylov space is used up after one step
        [1.0, 1.0, 2.0, 2.0, 3.0, 3.0],  # no peak at all: the largest of -H is -1
        [-float(i) for i in range(1, 41)],  # more than there are Lanczos steps
    ],
)
def test_curvature_of_a_quadratic_critic_is_its_largest_eigenvalue(eigenvalues):
    hessian = symmetric(eigenvalues)
    where = states(rows=5, dims=len(eigenvalues))
    found = curvature(model(still, quadratic(hessian)), where.obs, where.action)
    expected = torch.full_like(found, -min(eigenvalues))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_curvature_of_a_network_is_that_of_its_full_hessian():
    m, where = nets(), states()
    for obs, action, found in zip(where.obs, where.action, curvature(m, where.obs, where.action)):
        hessian = torch.func.hessian(lambda a, s=obs: m.q(s[None], a[None])[0])(action)
        assert float(found) == pytest.approx(float(torch.linalg.eigvalsh(-hessian)[-1]), abs=1e-9)


def test_a_linear_critic_has_no_curvature_and_no_largest_weight():
    found = stability(model(still, lambda s, a: a.sum(-1)), states(), Beta(0.1, 0.01))
    assert found.stable_weight == math.inf and found.stable_beta == 0
    assert found.floor_is_stable and all(p.unstable.mean == 0 for p in found.policy)


def test_the_stable_weight_is_where_the_sampler_begins_to_diverge():
    """Nothing flows, Q = a^T H a / 2: each step multiplies by I + w H / T."""
    hessian = symmetric([-0.5, -1.0, -2.0, -3.0, -4.0, -5.0])
    m = model(still, quadratic(hessian), bound=math.inf, steps=200)
    where = states()
    found = stability(m, where, Beta(0.1, 0.01, (0.0124, 0.0126)))
    assert found.stable_weight == pytest.approx(2 * 200 / 5, rel=1e-5)
    start = where.noise(0)
    size = {}
    for factor in (0.98, 1.02):
        w = factor * found.stable_weight
        ended = sample(m.velocity, m.critic, where.obs, start, w, steps=200, bound=math.inf)
        size[factor] = (ended.action.norm(dim=-1) / start.norm(dim=-1)).median()
    assert size[0.98] < 0.01 and size[1.02] > 100
    assert [(p.beta, p.unstable.mean) for p in found.policy] == [
        (0.01, 1), (0.0124, 1), (0.0126, 0), (0.1, 0),
    ]  # fmt: skip
    assert not found.floor_is_stable


def test_a_critic_that_is_flat_is_said_to_be_and_still_drawn(tmp_path):
    flat, where = model(still, lambda s, a: 0 * a.sum(-1)), states()
    parts = {
        "sensitivity": sensitivity(flat, where),
        "reach": reach(flat, where, where, [0.1]),
        "stability": stability(flat, where, Beta(math.inf, 1.0)),
    }
    assert all(c.zero == 1 for c in parts["sensitivity"].estimators.values())
    assert not any(parts["reach"].guided.values())
    document = plain(
        parts | {"policy": {"name": "flat"}, "data": {"states": 1, "states_episodes": 1}}
    )
    json.dumps(document, allow_nan=False)
    draw(tmp_path / "flat.png", document)
    assert (tmp_path / "flat.png").stat().st_size > 10_000


# The verb.


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("analyze")
    record(folder / "bags", "planar_arm", 40, episodes_per_bag=40)
    record(folder / "others", "planar_arm", 4, seed=1)
    fit(folder / "bags", CONTRACT, folder, FitConfig(hidden=(32, 32), steps=100, workers=1))
    return folder


def test_a_report_holds_what_training_said_of_the_same_episodes(made):
    """To the digits that normaliser and weights keep in their files; what Q was trained to predict is
    in no policy."""
    policy = load_policy(made / "policy")
    episodes, _ = load_episodes(made / "bags", policy.contract)
    found = figures(Subject.of(policy, episodes))
    said = json.loads((made / "report.json").read_text())
    assert "absent" in found.pop("td_error") and said.pop("td_error")["mean"] > 0
    assert found.keys() == said.keys()
    for name, value in said.items():
        assert flat(found[name]) == pytest.approx(flat(value), rel=1e-4, abs=1e-5), name


def flat(value, key=""):
    """{path: number} of all numbers of a document."""
    if isinstance(value, (dict, list)):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        return {p: x for k, v in inner for p, x in flat(v, f"{key}/{k}").items()}
    return {key: value} if isinstance(value, (int, float)) and not isinstance(value, bool) else {}


def qgf(*arguments):
    done = subprocess.run(
        ["qgf", *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout, done.stderr.strip()


def test_the_verb_writes_figures_and_picture(made, tmp_path, monkeypatch):
    out = tmp_path / "out"
    code, printed, err = qgf(
        "analyze", made / "policy", "--data", made / "bags", "--out", out, "--states", 12, "--json"
    )  # fmt: skip
    assert code == 0, err
    document = json.loads((out / "analysis.json").read_text(), parse_constant=pytest.fail)
    assert json.loads(printed) == document
    assert (out / "analysis.png").read_bytes().startswith(b"\x89PNG")
    assert document["data"]["group"] == "select" and document["data"]["states"] == 12
    assert set(document["sensitivity"]["estimators"]) == set(document["reach"]["guided"])
    assert all(len(points) == 7 for points in document["reach"]["guided"].values())
    q = [p["q"]["mean"] for p in document["reach"]["best_of_n"]]
    assert q == sorted(q) and len(q) == 6
    assert document["stability"]["stable_beta"] > 0
    for words in ("Noise sensitivity", "Stability", "paper's order", "off the data"):
        assert words in err
    monkeypatch.setattr("training.judge.analysis.run.draw", lambda *_: None)  # it has been drawn
    again = analyze(made / "policy", made / "bags", tmp_path / "again", count=12)
    assert again == document


def test_held_out_states_are_those_that_training_held_out(made):
    policy = load_policy(made / "policy")
    episodes, _ = load_episodes(made / "bags", policy.contract)
    groups = json.loads((made / "split.json").read_text())
    held = held_out(policy, episodes)

    def names(part):
        return {episodes[i].name for i in part.episode.tolist()}

    assert names(held.pool) == set(groups["select"])
    assert names(held.recorded) == set(groups["train"])
    policy.description.provenance["data"]["sha256"] = "of another machine"
    assert held_out(policy, episodes).group == "select"  # as many episodes, ticks and outcomes
    others, _ = load_episodes(made / "others", policy.contract)
    held = held_out(policy, others)
    assert held.group == "all" and len(held.pool.episode.unique()) == 4


@pytest.mark.parametrize(
    "case, code, words",
    [
        ("no bags", 5, "does not exist"),
        ("no policy", 4, "no policy folder"),
        ("no contract", 2, "cannot read"),
        ("one state", 2, "at least 2"),
    ],
)
def test_bad_input_is_named_and_ends_with_its_code(case, code, words, made, tmp_path, capsys):
    gone, out = str(tmp_path / "gone"), tmp_path / "out"
    policy, data = (gone if case == f"no {n}" else str(made / n) for n in ("policy", "bags"))
    arguments = ["analyze", policy, "--data", data, "--out", str(out)]
    arguments += ["--contract", gone] if case == "no contract" else []
    arguments += ["--states", "1"] if case == "one state" else []
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    last = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == code
    assert last.startswith(f"qgf: error[{code}]: ") and words in last
    assert not out.exists()


def test_the_model_asks_the_networks_as_the_sampler_does():
    m, where = nets(), states()
    noise = where.noise(0)
    a, v = m.path(where.obs, noise)[-1]
    torch.testing.assert_close(
        m.sample(where.obs, noise, 0.0).action, (a + v / T).clamp(-1, 1), rtol=0, atol=1e-12
    )
    torch.testing.assert_close(
        m.q(where.obs, a), aggregate(m.critic(where.obs, a), "min"), rtol=0, atol=0
    )
