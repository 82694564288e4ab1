"""What a training run writes down as it goes."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any


class Logs:
    """metrics.csv and TensorBoard events of a run; no account, no network."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def __enter__(self) -> Logs:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self._file = (self._out / "metrics.csv").open("w", newline="")
        self._csv: csv.DictWriter[str] | None = None
        self._board = SummaryWriter(str(self._out / "tensorboard"))
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()
        self._board.close()

    def write(self, step: int, values: dict[str, float]) -> None:
        if self._csv is None:
            self._csv = csv.DictWriter(self._file, ["step", *values])
            self._csv.writeheader()
        self._csv.writerow({"step": step} | values)
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
