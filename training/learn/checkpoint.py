"""Where a training run stands, in one file that is whole at any moment: safetensors, with the rest
as JSON in its header. Nothing is unpickled."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from qgf_ros.errors import UsageError
from qgf_ros.files.atomic import replaced_file
from qgf_ros.files.regular import lock_file, open_regular
from qgf_ros.files.strict_yaml import clipped, shown

FILE, LOCK = "checkpoint.safetensors", ".lock"
WRITTEN = ("metrics.csv", "split.json", "report.json")  # beside it, by a run
FOLDERS = ("policy", "tensorboard")
VERSION = 1


@contextlib.contextmanager
def only_trainer(run: Path) -> Iterator[None]:
    """Keeps others out of a run folder, however this process ends. Raises UsageError if one is in."""
    run.mkdir(parents=True, exist_ok=True)
    _check_plain(run)
    with os.fdopen(lock_file(run / LOCK), "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                f"{run} is being trained in by another process; wait for it or choose another --out"
            ) from None
        for left in run.glob(f".{FILE}.*.tmp"):  # of a trainer that was killed as it wrote
            left.unlink()
        yield


def _check_plain(run: Path) -> None:
    """Raises UsageError where something that a run writes is no file or folder of its own: through a
    link what is elsewhere would be overwritten, and on a pipe a run would wait for ever."""
    for name, whole in (
        *((n, Path.is_file) for n in (FILE, LOCK, *WRITTEN)),
        *((n, Path.is_dir) for n in FOLDERS),
    ):
        path = run / name
        if os.path.lexists(path) and (path.is_symlink() or not whole(path)):
            raise UsageError(
                f"{path} is a link, a pipe or something else that no run has written; remove it, or choose "
                "another --out"
            )


def save(run: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Replaces the checkpoint in one step. Raises OSError (disk full); the old one stays then."""
    header = {"checkpoint": json.dumps({"version": VERSION} | dict(facts))}
    whole = safetensors.torch.save({k: t.contiguous() for k, t in tensors.items()}, header)
    with replaced_file(run / FILE) as file:
        file.write(whole)


def load(run: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and facts that `save` was given. Raises UsageError where they cannot be read."""
    path = run / FILE
    try:
        open_regular(path).close()  # the library would wait for a pipe
        with safetensors.safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {})["checkpoint"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        if not isinstance(facts, dict):
            raise ValueError("its header does not say what run it is of")
        if facts["version"] != VERSION:
            raise ValueError(f"version {facts['version']}, this qgf_ros writes {VERSION}")
    except (OSError, safetensors.SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise unreadable(run, f"{type(error).__name__}: {clipped(error)}") from None
    return tensors, facts


def unreadable(run: Path, why: str) -> UsageError:
    return UsageError(f"{run / FILE} cannot be read ({why}); remove it to begin anew")


def check_tensors(run: Path, found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raises UsageError unless `found` are tensors of the names, shapes and types of `own`, of which
    those of the networks are finite."""
    for name in sorted({*found, *own}):
        a, b = found.get(name), own.get(name)
        if a is None or b is None:
            raise unreadable(
                run, f"tensor {shown(name)} is {'missing' if a is None else 'none of it'}"
            )
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            raise unreadable(
                run, f"tensor {name} is {tuple(a.shape)} {a.dtype}, not {tuple(b.shape)} {b.dtype}"
            )
        if a.is_floating_point() and not name.startswith("adam.") and not a.isfinite().all():
            raise unreadable(run, f"tensor {name} is not finite")


def plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """As they come back from the file: tuples are lists."""
    return json.loads(json.dumps(facts))


def check_same(path: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises UsageError with every difference between a run as it began and as it would go on."""
    then, now = _flat(then), _flat(now)
    differ = [
        f"{key}: {json.dumps(then.get(key))} then, {json.dumps(now.get(key))} now"
        for key in sorted({*then, *now})
        if then.get(key) != now.get(key)
    ]
    if differ:
        raise UsageError(
            f"{path} is of another run: {'; '.join(differ)[:1500]}; give the same settings and data, "
            "or choose another --out"
        )


def _flat(value: Mapping[str, Any]) -> dict[str, Any]:
    """{"settings": {"seed": 0}} -> {"settings.seed": 0}"""
    out: dict[str, Any] = {}
    for key, item in value.items():
        inner = _flat(item) if isinstance(item, Mapping) else {"": item}
        out |= {f"{key}.{k}".rstrip("."): v for k, v in inner.items()}
    return out
