"""What a draft makes of `next.done`, `next.success`, `next.reward` and their like, where a table has no
other outcome; and that training takes what was drafted."""

import numpy as np
import pytest
import yaml
from qgf_make import contract, velocity_dict

pa = pytest.importorskip("pyarrow")
import json  # noqa: E402

import pyarrow.parquet as pq  # noqa: E402

from qgf_ros.errors import DataRefused  # noqa: E402
from training.doctor.dataset import survey_dataset  # noqa: E402
from training.draft.draft import drafted_from  # noqa: E402
from training.pipeline.readers.load import load_episodes  # noqa: E402

ROWS, FPS = 40, 20
END = np.arange(ROWS) == ROWS - 1
DENSE = np.arange(ROWS, dtype=np.float32)


def numbers():
    rng = np.random.default_rng(0)
    return {
        "observation.joints": rng.normal(size=(ROWS, 4)).astype(np.float32),
        "observation.goal": rng.normal(size=ROWS).astype(np.float32),
        "action": rng.normal(size=(ROWS, 2)).astype(np.float32),
    }


def lerobot(folder, **more):
    """Two episodes, the second of which says nothing true."""
    columns = numbers() | more
    features = {
        n: {"dtype": str(v.dtype), "shape": list(v.shape[1:]) or [1], "names": None}
        for n, v in columns.items()
    }
    info = {
        "codebase_version": "v2.1", "fps": FPS, "chunks_size": 1000, "total_episodes": 2,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "features": features,
    }  # fmt: skip
    (folder / "meta").mkdir(parents=True)
    (folder / "meta/info.json").write_text(json.dumps(info))
    (folder / "data/chunk-000").mkdir(parents=True)
    for k in range(2):
        arrays = {}
        for n, v in columns.items():
            values = v if k == 0 else v & False if v.dtype == bool else v + np.float32(0.5)
            arrays[n] = pa.array(values.tolist())
        pq.write_table(pa.table(arrays), folder / f"data/chunk-000/episode_{k:06d}.parquet")


def drafted(path):
    """The outcome of a draft, and its text."""
    text = drafted_from(survey_dataset(path), None, 8).text
    text = text[text.index("outcome:") :]
    return yaml.safe_load(text)["outcome"], text


def trained(path, outcome, columns=None):
    given = velocity_dict()
    for source, column in zip((*given["observations"], *given["actions"]), columns or ()):
        source["column"] = column
    given["observations"][1] |= {"type": "std_msgs/Float64", "fields": ["data"]}
    episodes, _ = load_episodes(path, contract(given | {"outcome": outcome}))
    return [(e.terminal, e.success, float(e.reward.sum())) for e in episodes]


CASES = {
    "done": ({"next.done": END}, "time_to_success", "next.done", [1.0, 0.0]),
    "success": ({"next.success": END}, "time_to_success", "next.success", [1.0, 0.0]),
    "success and done": (
        {"next.success": END, "next.done": END}, "time_to_success", "next.success", [1.0, 0.0]
    ),
    "reward and success": (
        {"next.reward": DENSE, "next.success": END}, "reward", "next.success", [780.0, 800.0]
    ),
    "reward and done": (
        {"next.reward": DENSE, "next.done": END}, "reward", "next.done", [780.0, 800.0]
    ),
    "all of them": (
        {"next.reward": DENSE, "next.success": END, "next.done": END}, "reward", "next.success",
        [780.0, 800.0],
    ),
    "a reward that is always the same": (
        {"next.reward": DENSE * 0, "next.done": END}, "reward", "next.done", [0.0, 20.0]
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_lerobot_tables_own_outcomes_are_drafted_and_trained_on(tmp_path, case):
    more, objective, success, rewards = CASES[case]
    lerobot(tmp_path / "set", **more)
    outcome, text = drafted(tmp_path / "set")
    assert outcome["objective"] == objective and "assume_success" not in outcome
    assert outcome["success"]["column"] == success
    assert ("reward" in outcome) == (objective == "reward")
    # What only says that an episode is over is a guess, and marked as one.
    assert ("# confirm: next.done says that an episode is over" in text) == (success == "next.done")
    found = trained(tmp_path / "set", outcome)
    assert [(t, s) for t, s, _ in found] == [(True, True), (False, None)]
    assert [r for *_, r in found] == pytest.approx(rewards)


def test_a_table_that_never_says_done_says_nothing(tmp_path):
    lerobot(tmp_path / "set", **{"next.done": END & False})
    assert drafted(tmp_path / "set")[0] == {"objective": "time_to_success", "assume_success": True}


def test_reward_and_done_alone_are_refused_as_in_an_npz(tmp_path):
    """Whether a reward can still come after the last row decides what it is worth."""
    lerobot(tmp_path / "set", **{"next.reward": DENSE, "next.done": END})
    source = {"topic": "reward", "type": "std_msgs/Float64", "fields": ["data"]}
    with pytest.raises(DataRefused, match="next.done says where episodes end.*column: next.done"):
        trained(tmp_path / "set", {"objective": "reward", "reward": source})


@pytest.mark.parametrize("rewards", [None, DENSE, DENSE * 0])
@pytest.mark.parametrize("ends", ["dones", "terminals"])
def test_a_draft_of_an_npz_that_only_says_where_episodes_end_is_trained_on(tmp_path, ends, rewards):
    given = {n.removeprefix("observation."): v for n, v in numbers().items()} | {ends: END}
    if rewards is not None:
        given["rewards"] = rewards
    np.savez(tmp_path / "set.npz", **given, fps=np.array(float(FPS)))
    outcome, text = drafted(tmp_path / "set.npz")
    columns = ("joints", "goal", "action")
    if rewards is not None and np.ptp(rewards):
        assert outcome["reward"]["column"] == "rewards" and outcome["success"]["column"] == ends
    elif ends == "dones":
        assert outcome["success"]["column"] == ends and outcome["objective"] == "time_to_success"
    else:  # OGBench: the ends of trajectories
        assert outcome["assume_success"] is True
    ((terminal, *_),) = trained(tmp_path / "set.npz", outcome, columns)
    assert terminal


def test_rewards_alone_are_drafted(tmp_path):
    given = {n.removeprefix("observation."): v for n, v in numbers().items()}
    np.savez(tmp_path / "set.npz", **given, rewards=DENSE, fps=np.array(float(FPS)))
    outcome, _ = drafted(tmp_path / "set.npz")
    assert outcome["objective"] == "reward" and outcome["reward"]["column"] == "rewards"
