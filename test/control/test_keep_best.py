"""keep_best: the unguided action where the guided one's Q is not larger, as in the reference."""

import numpy as np
import pytest
from qgf_make import Rig, contract, policy_in_memory, sample_of

from qgf_ros.control.chunk import choose
from qgf_ros.guidance.protocols import Guards

POLICY = policy_in_memory(contract())
OBS = POLICY.observed(np.zeros(POLICY.obs_dim))


def sample(q, q_unguided, acted=None):
    rows = np.linspace(0.1, 0.9, len(q), dtype=np.float32)[:, None]
    guided = np.tile(rows, (1, POLICY.flat_dim))
    more = {} if acted is None else {"acted": np.array(acted, np.float32)}
    return sample_of(guided, -guided, q=np.array(q, np.float32),
                     q_unguided=np.array(q_unguided, np.float32), **more)  # fmt: skip


@pytest.mark.parametrize(
    "q, q_unguided, row, guided",
    [
        ([1.0], [0.0], 0, True),
        ([0.0], [1.0], 0, False),
        ([0.5], [0.5], 0, False),  # equal: the gentler one
        ([1.0, 2.0], [3.0, 0.0], 0, False),  # a better unguided one competes
        ([1.0, 4.0], [3.0, 0.0], 1, True),
    ],
)
def test_a_candidate_is_replaced_where_its_q_is_not_larger(q, q_unguided, row, guided):
    drawn = sample(q, q_unguided)
    choice = choose(drawn, POLICY, OBS, keep_best=True)
    assert (choice.row, choice.guided) == (row, guided)
    assert ("keep_best" in choice.guards) is not guided
    assert np.sign(choice.action).min() == (1 if guided else -1)
    plain = choose(drawn, POLICY, OBS)
    assert plain.guided and plain.row == int(np.argmax(q)) and plain.guards == ()


def test_it_is_the_reference_row_by_row():
    torch = pytest.importorskip("torch")
    from training.sampling import Sample

    rng = np.random.default_rng(0)
    for _ in range(50):
        q, q_unguided = rng.integers(0, 3, (2, 1)).astype(np.float32)
        drawn = sample(q, q_unguided)
        nothing = torch.zeros(1)
        mine = Sample(torch.from_numpy(drawn.action), torch.from_numpy(q), nothing, nothing)
        other = Sample(torch.from_numpy(drawn.action_unguided), torch.from_numpy(q_unguided), nothing, nothing)  # fmt: skip
        want = mine.better(other).action.numpy().reshape(POLICY.horizon, -1)
        assert np.array_equal(choose(drawn, POLICY, OBS, keep_best=True).action, want)


def test_what_the_graph_says_has_acted_is_named_for_the_candidate_that_is_executed():
    choice = choose(sample([1.0, 2.0], [0.0, 0.0], [2, 5]), POLICY, OBS)
    assert choice.guards == ("support", "ratio_cap")
    choice = choose(sample([1.0], [2.0], [7]), POLICY, OBS, keep_best=True)
    assert choice.guards == ("keep_best",), "the guided action that they altered is not executed"


def test_the_core_keeps_the_best_and_reports_what_is_executed():
    plan = lambda k, honest: sample([1.0], [2.0])  # noqa: E731
    rig = Rig(plan=plan)
    rig.set(guards=Guards(keep_best=True))
    rig.step(6)
    said = next(t.sampled for t in rig.ticks if t.sampled)
    assert said.q == said.q_unguided == 2.0 and said.guidance_ratio == 0.0
    assert "keep_best" in said.guards and (rig.sent[-1].values < 0).all()
