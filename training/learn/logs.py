"""What a training run writes down as it goes."""

from __future__ import annotations

import contextlib
import csv
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MOST_COLUMNS = 256  # a run writes dozens; each row is held with all of them


class Logs:
    """metrics.csv and TensorBoard events of a run; no account, no network."""

    def __init__(self, out: Path | None, after: int = 0) -> None:
        """out: None writes nothing. after: the update that a resumed run goes on from; what was
        written since is dropped."""
        self._out, self._after = out, after
        self._began, self._before, self._timed = time.monotonic(), 0.0, True

    def __enter__(self) -> Logs:
        if self._out is None:
            return self
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        path = self._out / "metrics.csv"
        rows: list[dict[str, str]] = []
        if self._after and path.exists():
            with path.open(newline="", errors="replace") as file, contextlib.suppress(csv.Error):
                read = csv.DictReader(file)
                if len(read.fieldnames or ()) <= MOST_COLUMNS:
                    rows = [r for r in read if _whole(r, self._after)]
        if rows:  # a run begun by an older version has no such column, and gets none
            self._timed = "seconds" in rows[0]
            with contextlib.suppress(ValueError):  # damaged: the time begins anew
                self._before = float(rows[-1].get("seconds") or 0)
        self._file = path.open("w", newline="")
        self._csv: csv.DictWriter[str] | None = None
        for row in rows:
            self._row(row)
        self._board = SummaryWriter(
            str(self._out / "tensorboard"), purge_step=self._after + 1 if self._after else None
        )
        return self

    def __exit__(self, *_: Any) -> None:
        if self._out is None:
            return
        self._file.close()
        self._board.close()

    def _row(self, row: Mapping[str, Any]) -> None:
        if self._csv is not None and {*self._csv.fieldnames} != {*row}:
            self._file.seek(0)  # what was there was no log of such a run
            self._file.truncate()
            self._csv = None
        if self._csv is None:
            self._csv = csv.DictWriter(self._file, list(row))
            self._csv.writeheader()
        self._csv.writerow(row)

    def write(self, step: int, values: dict[str, float]) -> None:
        if self._out is None:
            return
        spent = {"seconds": round(self._before + time.monotonic() - self._began, 3)}
        self._row({"step": step} | values | (spent if self._timed else {}))
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def flush(self) -> None:
        """What was written is in the files."""
        self._file.flush()
        self._board.flush()


def _whole(row: Mapping[str, str | None], after: int) -> bool:
    """Whether a row is not one that was cut off as the process was killed, nor a later one."""
    step = row.get("step") or ""
    return (
        None not in row
        and None not in row.values()
        and step.isdecimal()
        and len(step) < 20
        and int(step) <= after
    )
