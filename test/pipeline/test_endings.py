"""Rewards and masks, terminals, timeouts: each combination is read right, or refused."""

import numpy as np
import pytest
from qgf_make import contract, velocity_dict

from qgf_ros.errors import DataRefused
from training.pipeline.align import AFTER
from training.pipeline.readers.endings import read_endings, same_state
from training.pipeline.readers.load import load_episodes

N = 12  # two episodes of six rows: the first ends in a terminal state, the second was cut


def npz_dict():
    value = velocity_dict(period=0.05)
    value["observations"][0] |= {"fields": ["position"], "column": "observations[0:2]"}
    value["observations"][1] |= {"column": "observations[2:3]"}
    value["actions"][0]["column"] = "actions"
    return value


def rows(**ends):
    """The rewards tell rows apart: row k earns k + 1."""
    rng = np.random.default_rng(0)
    return {
        "observations": rng.normal(size=(N, 3)).astype(np.float32),
        "actions": rng.normal(size=(N, 2)).astype(np.float32),
        "rewards": np.arange(1.0, N + 1),
    } | {name: np.array(value) for name, value in ends.items()}


def at(*true, of=N):
    return np.isin(np.arange(of), true)


def rewarded(column="rewards"):
    value = npz_dict()
    value["outcome"] = {"objective": "reward", "reward": {
        "topic": "r", "type": "std_msgs/Float64", "fields": ["data"], "column": column}}  # fmt: skip
    return contract(value)


def load(tmp_path, data, own=None):
    np.savez(tmp_path / "set.npz", **data)
    return load_episodes(tmp_path / "set.npz", own or rewarded())[0]


def transitions(**ends):
    data = rows(**ends)
    after = np.random.default_rng(1).normal(size=(N, 3)).astype(np.float32)
    inside = ~at(5, 11)
    after[inside] = data["observations"][1:][inside[:-1]]
    return data | {"next_observations": after}


# kind of file -> arrays, and per episode (rewards that count, terminal)
ALL, SHORT = list(range(1, 7)), list(range(1, 6))
REST, REST_SHORT = list(range(7, 13)), list(range(7, 12))
READ = {
    "D4RL": (rows(terminals=at(5), timeouts=at(11)), (ALL, REST_SHORT)),
    "D4RL with masks": (rows(terminals=at(5), timeouts=at(11), masks=~at(5)), (ALL, REST_SHORT)),
    "Minari's names": (rows(terminations=at(5), truncations=at(11)), (ALL, REST_SHORT)),
    "gymnasium's names": (rows(terminated=at(5), truncated=at(11)), (ALL, REST_SHORT)),
    "dones and timeouts": (rows(dones=at(5, 11), timeouts=at(11)), (ALL, REST_SHORT)),
    "terminals and dones": (rows(dones=at(5, 11), terminals=at(5)), (ALL, REST_SHORT)),
    "the last rows are transitions": (rows(terminals=at(5, 11), masks=~at(5)), (ALL, REST_SHORT)),
    "OGBench": (rows(terminals=at(5, 11), masks=~at(4, 5)), (SHORT, REST_SHORT)),
    "RLDS": (rows(is_last=at(5, 11), is_terminal=at(5)), (SHORT, REST_SHORT)),
    "transitions, D4RL's q-learning set": (transitions(terminals=at(5)), (ALL, REST)),
    "transitions, masks alone": (transitions(masks=~at(5)), (ALL, REST)),
    "transitions, masks": (transitions(terminals=at(5, 11), masks=~at(5)), (ALL, REST)),
    "transitions, dones and timeouts": (transitions(dones=at(5, 11), timeouts=at(11)), (ALL, REST)),
    "gymnasium's, both true": (rows(terminated=at(5), truncated=at(5, 11)), (ALL, REST_SHORT)),
    "everything of D4RL": (
        rows(dones=at(5, 11), terminals=at(5), timeouts=at(11), masks=~at(5)), (ALL, REST_SHORT)),
    "terminals as ends, with both reasons": (
        rows(terminals=at(5, 11), terminations=at(5), truncations=at(11)), (ALL, REST_SHORT)),
    "dones and masks": (rows(dones=at(5, 11), masks=~at(5)), (ALL, REST_SHORT)),
    "RLDS with masks of the way there": (
        rows(is_last=at(5, 11), is_terminal=at(5), masks=~at(4)), (SHORT, REST_SHORT)),
    "RLDS with terminations of the way there": (
        rows(is_last=at(5, 11), is_terminal=at(5), terminations=at(4), truncations=at(10)), (SHORT, REST_SHORT)),
    "floats": (rows(terminals=at(5) * 1.0, timeouts=at(11) * 1.0), (ALL, REST_SHORT)),
    "columns": (rows(terminals=at(5)[:, None], timeouts=at(11)[:, None]), (ALL, REST_SHORT)),
}  # fmt: skip


@pytest.mark.parametrize("kind", READ)
def test_fault_145_ends_are_read_as_the_file_means_them(tmp_path, kind):
    data, expected = READ[kind]
    episodes = load(tmp_path, data)
    assert [e.reward.tolist() for e in episodes] == list(expected)
    assert [(e.terminal, e.success) for e in episodes] == [(True, None), (False, None)]
    for e, first in zip(episodes, (0, 6)):
        assert np.array_equal(e.action, data["actions"][first : first + len(e)].astype(float))
        seen = data["observations"][first : first + len(e)].astype(float)
        assert np.array_equal(e.obs[:-1], seen)


def test_fault_145_a_mask_of_0_with_a_reward_of_0_is_terminal(tmp_path):
    """Rewards of -1 until the goal is reached: what is worth nothing there ends nevertheless."""
    data = rows(terminals=at(11), masks=~at(11)) | {"rewards": -1.0 * ~at(11)}
    (episode,) = load(tmp_path, data)
    assert episode.terminal and episode.reward.tolist() == [-1.0] * 11 + [0.0]
    alone = rows(masks=~at(11)) | {"rewards": -1.0 * ~at(11)}
    (episode,) = load(tmp_path, alone)
    assert episode.terminal and len(episode) == N


def test_fault_145_the_first_terminal_state_ends_an_episode(tmp_path):
    (episode,) = load(tmp_path, rows(terminals=at(11), masks=~at(3, 4, 8)))
    assert episode.terminal and episode.reward.tolist() == [1, 2, 3, 4]


def test_fault_145_a_success_says_how_a_terminal_state_is_one(tmp_path):
    own = npz_dict()
    own["outcome"] = {"objective": "time_to_success", "success": {
        "topic": "s", "type": "std_msgs/Bool", "fields": ["data"], "column": "success"}}  # fmt: skip
    data = rows(terminals=at(5, 11), masks=~at(4, 5, 10, 11), success=at(5))
    episodes = load(tmp_path, data, contract(own))
    assert [(e.terminal, e.success) for e in episodes] == [(True, True), (True, False)]
    assert len(episodes[0]) == 5, "what the last state says is said of the period that led there"


REFUSED = {
    "terminals and rewards": (rows(terminals=at(5, 11)), "add `masks`.*or `timeouts`"),
    "dones": (rows(dones=at(5, 11)), "add `masks`.*or `timeouts`"),
    "dones of transitions": (transitions(dones=at(5, 11)), "add `masks`"),
    "masks within a file": (rows(masks=~at(5)), "where episodes begin; add an array `terminals`"),
    "masks against terminations": (rows(masks=~at(5), terminations=at(4)), "differ in row 4"),
    "D4RL's against masks": (rows(terminals=at(5), timeouts=at(11), masks=~at(3)), "differ in row 3"),
    "two names": (rows(terminated=at(5), terminations=at(11)), "mean the same and differ in row 5"),
    "masks against dones and timeouts": (rows(dones=at(5, 11), timeouts=at(11), masks=~at(3)), "masks and dones.*row 3"),
    "masks that know no end": (rows(dones=at(5, 11), timeouts=at(11), masks=~at()), "masks and dones.*row 5"),
    "dones without a terminal": (rows(dones=at(11), terminals=at(5, 11)), "terminals and dones.*row 5"),
    "dones without a termination": (rows(dones=at(11), terminated=at(5), truncated=at(11)), "terminated and dones.*row 5"),
    "dones without a reason": (rows(done=at(2, 5, 11), terminated=at(5), truncated=at(11)), "done and terminated.*row 2"),
    "timeouts beside dones": (rows(dones=at(5, 11), timeouts=at(6)), "timeouts and dones.*row 6"),
    "truncations beside dones": (rows(dones=at(5), truncations=at(11)), "truncations and dones.*row 11"),
    "terminations beside terminals": (rows(terminations=at(4), terminals=at(5, 11)), "terminations and terminals.*row 4"),
    "masks beside dones": (rows(dones=at(5, 11), masks=~at(2, 5)), "masks and dones.*row 2"),
    "is_terminal against terminations": (
        rows(is_last=at(5, 11), is_terminal=at(5), terminations=at(), truncations=at(5, 11)), "is_terminal and terminations.*row 5"),
    "terminations against is_terminal": (
        rows(is_last=at(5, 11), is_terminal=at(5), terminations=at(5, 11)), "terminations and is_terminal.*row 11"),
    "is_terminal against masks": (rows(is_last=at(5, 11), is_terminal=at(5), masks=~at()), "is_terminal and masks.*row 5"),
    "masks against is_terminal": (rows(is_last=at(5, 11), is_terminal=at(5), masks=~at(5, 11)), "masks and is_terminal.*row 11"),
    "is_terminal before is_last": (rows(is_last=at(5, 11), is_terminal=at(3)), "is_terminal and is_last.*row 3"),
    "truncated before is_last": (rows(is_last=at(5, 11), truncated=at(3)), "truncated and is_last.*row 3"),
    "is_terminal alone within a file": (rows(is_terminal=at(5)), "where episodes begin; add an array `terminals`"),
    "masks and timeouts that are no end": (rows(timeouts=at(11), masks=~at(3)), "where episodes begin"),
    "masks inverted": (rows(terminals=at(5, 11), masks=at(5, 11)), "masks is probably inverted"),
    "masks of one episode inverted": (rows(masks=at(11)), "masks is probably inverted"),
    "masks of transitions inverted": (transitions(masks=at(5)), "masks is probably inverted"),
    "terminals inverted": (rows(terminals=~at(5, 11), timeouts=at(5, 11)), "terminals is probably inverted"),
    "is_last inverted": (rows(is_last=~at(5, 11), is_terminal=at(0)), "is_last is probably inverted"),
    "capital letters": (rows(Terminals=at(5, 11)), "add `masks`"),
    "discounts": (rows(terminals=at(5), masks=np.full(N, 0.99)), "masks must be 0 or 1"),
    "NaN": (rows(terminals=np.full(N, np.nan)), "terminals must be 0 or 1"),
    "short": (rows(timeouts=at(3, of=N - 1)), "one number for each row"),
    "text": (rows(timeouts=np.array(["no"] * N)), "one number for each row"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_fault_145_what_is_not_known_is_refused_with_the_fix(tmp_path, kind):
    data, text = REFUSED[kind]
    with pytest.raises(DataRefused, match=text):
        load(tmp_path, data)


def test_fault_145_rows_after_a_terminal_state_are_counted(tmp_path):
    np.savez(tmp_path / "set.npz", **rows(terminals=at(11), masks=~at(3, 4, 8)))
    _, report = load_episodes(tmp_path / "set.npz", rewarded())
    assert report.dropped[AFTER] == 7, "twelve rows, the last one only a state, and four that count"


def test_fault_145_nothing_is_counted_where_nothing_comes_after(tmp_path):
    np.savez(tmp_path / "set.npz", **rows(terminals=at(5, 11), masks=~at(4, 5)))
    _, report = load_episodes(tmp_path / "set.npz", rewarded())
    assert not report.dropped[AFTER]


def test_fault_145_what_the_reward_is_called_does_not_matter(tmp_path):
    data = rows(terminals=at(5, 11))
    data["sparse"] = data.pop("rewards")
    with pytest.raises(DataRefused, match="add `masks`"):
        load(tmp_path, data, rewarded("sparse"))


def test_fault_145_who_says_how_episodes_ended_needs_no_masks(tmp_path):
    episodes = load(tmp_path, rows(terminals=at(5, 11)), contract(npz_dict()))
    assert [(e.terminal, e.success) for e in episodes] == [(True, True)] * 2


def test_states_that_go_on_are_one_episode():
    states = np.random.default_rng(0).normal(size=(6, 2))
    after = np.roll(states, -1, axis=0)
    assert same_state(after, states).all()
    after[2] += 0.5
    assert same_state(after, states).tolist() == [True, True, False, True, True]
    assert same_state(after.astype(np.float32), states).tolist() == [True, True, False, True, True]
    found = read_endings({}, 6, rewards=True, following=True, joined=same_state(after, states))
    assert found.episodes == (slice(0, 3), slice(3, 6)) and not found.last.any()


def test_an_episode_of_its_own_is_one_whatever_is_said_within():
    found = read_endings({"dones": at(3, 4, 5, of=6)}, 6, rewards=True, one=True)
    assert found.episodes == (slice(0, 6),) and found.terminal is None and found.unsaid


@pytest.mark.parametrize(
    "ends", [{"terminals": at(5), "timeouts": at(11)}, {"terminals": at(5, 11), "masks": ~at(5)}]
)
def test_fault_145_a_draft_uses_what_says_how_episodes_ended(tmp_path, ends):
    from training.draft.draft import draft

    np.savez(tmp_path / "set.npz", **rows(**ends))
    text = draft(tmp_path / "set.npz", tmp_path / "contract.yaml", 0.05).text
    assert "objective: reward" in text and "column: rewards" in text
    assert "assume_success" not in text and "nothing says how episodes" not in text


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_fault_145_a_reward_that_is_not_known_is_not_0(tmp_path, bad):
    """The episode is cut where it is missing, as where an action is."""
    data = rows(terminals=at(11), timeouts=at())
    data["rewards"][4] = bad
    first, second = load(tmp_path, data)
    assert first.reward.tolist() == [1, 2, 3, 4] and not first.terminal
    assert second.reward.tolist() == list(range(6, N + 1)) and second.terminal
