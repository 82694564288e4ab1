"""LeRobot datasets of versions 2.1 and 3.0 as small as tests need them."""

import copy
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from qgf_make import contract, velocity_dict

FPS = 20
INFO = {
    "codebase_version": "v2.1", "fps": FPS, "chunks_size": 1000, "total_episodes": 2,
    "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    "features": {
        "observation.state": {"dtype": "float32", "shape": [3], "names": [["c", "b", "a"]]},
        "goal": {"dtype": "float32", "shape": [1], "names": None},
        "action": {"dtype": "float32", "shape": [2], "names": ["b", "a"]},
        "next.success": {"dtype": "bool", "shape": [1], "names": None},
        "next.reward": {"dtype": "float32", "shape": [1], "names": None},
    },
}  # fmt: skip


def table_contract(outcome=None, names=("a", "b")):
    value = velocity_dict(period=1 / FPS)
    value["observations"] = [
        {"name": "joints", "topic": "joint_states", "type": "sensor_msgs/JointState", "fields": ["position"],
         "names": list(names), "column": "observation.state"},
        {"name": "goal", "topic": "goal", "type": "std_msgs/Float64", "fields": ["data"], "column": "goal"},
    ]  # fmt: skip
    value["actions"][0]["column"] = "action"
    if outcome == "reward":
        value["outcome"] = {
            "objective": "reward",
            "reward": {
                "topic": "r",
                "type": "std_msgs/Float64",
                "fields": ["data"],
                "column": "next.reward",
            },
            "success": {
                "topic": "s",
                "type": "std_msgs/Bool",
                "fields": ["data"],
                "column": "next.success",
            },
        }
    return contract(value)


def columns(rows, seed):
    rng = np.random.default_rng(seed)
    won = np.zeros(rows, bool)
    won[-1:] = seed == 0
    return {
        "observation.state": rng.normal(size=(rows, 3)).astype(np.float32),
        "goal": rng.normal(size=rows).astype(np.float32),
        "action": rng.normal(size=(rows, 2)).astype(np.float32),
        "next.success": won,
        "next.reward": np.arange(rows, dtype=np.float32),
    }


def write(folder, lengths=(30, 20), info=None, change=None):
    info = copy.deepcopy(INFO) | {"total_episodes": len(lengths)} | (info or {})
    (folder / "meta").mkdir(parents=True)
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    out = []
    for k, rows in enumerate(lengths):
        data = columns(rows, k)
        if change:
            change(data)
        arrays = {}
        for n, v in data.items():
            if isinstance(v, pa.Array):
                arrays[n] = v
            else:
                arrays[n] = (
                    pa.FixedSizeListArray.from_arrays(pa.array(v.ravel()), v.shape[1])
                    if v.ndim == 2
                    else pa.array(v)
                )
        file = folder / f"data/chunk-000/episode_{k:06d}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(arrays), file)
        out.append(data)
    return out


def listed(folder, episodes, lengths=(30, 20, 10)):
    """The list of a dataset of which some episodes were deleted, or that is a part of another."""
    lines = [
        json.dumps({"episode_index": e, "tasks": [], "length": n})
        for e, n in zip(episodes, lengths)
    ]
    (folder / "meta" / "episodes.jsonl").write_text("\n".join(lines) + "\n")


def write_v3(folder, lengths=(30, 20, 25, 10), per_file=2, groups=1, change=None, info=None):
    """As the converter of LeRobot lays it out; `change` edits the list of meta/episodes."""
    paths = {"data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"}
    data = write(
        folder,
        lengths,
        info={"codebase_version": "v3.0", "total_episodes": len(lengths)} | paths | (info or {}),
    )
    old = sorted((folder / "data/chunk-000").glob("episode_*"))
    rows, at = [], 0
    for number in range(0, len(lengths), per_file):
        tables = []
        for e in range(number, min(number + per_file, len(lengths))):
            table, count = pq.read_table(old[e]), lengths[e]
            for name, values in (
                ("episode_index", np.full(count, e)),
                ("index", at + np.arange(count)),
            ):
                table = table.append_column(name, pa.array(values))
            tables.append(table)
            rows.append(
                {"episode_index": e, "data/chunk_index": 0, "data/file_index": number // per_file,
                 "dataset_from_index": at, "dataset_to_index": at + count, "length": count, "tasks": ["t"]}
            )  # fmt: skip
            at += count
        table = pa.concat_tables(tables)
        size = max(1, -(-table.num_rows // groups))
        pq.write_table(table, folder / f"data/chunk-000/file-{number // per_file:03d}.parquet", row_group_size=size)  # fmt: skip
    for file in old:
        file.unlink()
    (folder / "meta/episodes/chunk-000").mkdir(parents=True)
    half = len(rows) // 2
    for k, part in enumerate((change or list)(rows)[i:j] for i, j in ((0, half), (half, None))):
        pq.write_table(pa.Table.from_pylist(part), folder / f"meta/episodes/chunk-000/file-{k:03d}.parquet")  # fmt: skip
    return data
