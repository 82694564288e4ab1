"""What LeRobot's own reader gives of a dataset, row by row. Run by a Python that has `lerobot`, for
bench/camera_formats.py; it imports nothing of this repository.

    python bench/lerobot_frames.py DATASET OUT --backends pyav torchcodec --episodes 0 3

OUT/<backend> gets rows.npz (every number of every row), a <camera>.npy per camera ((N, H, W, 3) uint8) and about.json:
versions, and which rows LeRobot refuses to show. An image is a float from 0 to 1 there; `rounding` is how far
255 times that is from a whole number at most.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
from pathlib import Path

import numpy as np
import torch

try:  # 0.4 and later
    from lerobot.datasets.lerobot_dataset import CODEBASE_VERSION, LeRobotDataset
except ImportError:
    from lerobot.datasets import LeRobotDataset
    from lerobot.datasets.dataset_metadata import CODEBASE_VERSION


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--backends", nargs="+", default=["pyav"])
    parser.add_argument("--episodes", type=int, nargs="*")
    given = parser.parse_args()
    torch.set_num_threads(1)
    kind = json.loads((given.dataset / "meta/info.json").read_text())["codebase_version"]
    for backend in given.backends:
        out = given.out / backend
        out.mkdir(parents=True)
        package = {"pyav": "av"}.get(backend, backend)
        about = {
            "lerobot": version("lerobot"), "reads": CODEBASE_VERSION, "torch": torch.__version__,
            "decoder": f"{package} {version(package)}", "dataset": kind,
        }  # fmt: skip
        if kind == CODEBASE_VERSION:
            about |= read(given.dataset, given.episodes or None, backend, out)
        (out / "about.json").write_text(json.dumps(about))


def read(dataset: Path, episodes: list[int] | None, backend: str, out: Path) -> dict[str, object]:
    data = LeRobotDataset("local/dataset", root=dataset, episodes=episodes, video_backend=backend)
    cameras = list(data.meta.camera_keys)
    numbers: dict[str, list[np.ndarray]] = {}
    images: dict[str, np.memmap] = {}
    refused, rounding = [], 0.0
    for k in range(len(data)):
        try:
            row = data[k]
        except Exception as error:  # what it raises differs by its version and its decoder
            refused.append({"row": k, "why": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"})
            row = {name: value for name, value in data.hf_dataset[k].items() if name not in cameras}
        for name, value in row.items():
            if name not in cameras and isinstance(value, torch.Tensor):
                numbers.setdefault(name, []).append(value.numpy())
        for camera in cameras:
            if camera not in row:
                continue
            scaled = row[camera].numpy().transpose(1, 2, 0) * np.float32(255)
            if camera not in images:
                shape = (len(data), *scaled.shape)
                images[camera] = np.lib.format.open_memmap(out / f"{camera}.npy", "w+", np.uint8, shape)
            whole = np.rint(scaled)
            rounding = max(rounding, float(np.abs(scaled - whole).max()))
            images[camera][k] = whole
    for array in images.values():
        array.flush()
    np.savez(out / "rows.npz", **{name: np.stack(rows) for name, rows in numbers.items()})
    return {"rows": len(data), "refused": refused, "rounding": rounding}


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "of a checkout"


if __name__ == "__main__":
    main()
