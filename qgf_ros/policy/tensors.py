"""The weights of a policy: which tensors a network has, and those of a file that were checked against it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors.numpy

from qgf_ros.errors import PolicyRefused
from qgf_ros.files.strict_json import parse_json
from qgf_ros.files.strict_yaml import clipped, shown
from qgf_ros.policy.description import DESCRIPTION, Network
from qgf_ros.policy.manifest import said

MAX_PARAMETERS = 200_000_000
MAX_HEADER = 2**20  # bytes of a safetensors header


def network_shapes(
    network: Network, inputs: int, outputs: int, norm_last: bool
) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of an ensemble MLP; LayerNorm on the last hidden layer or not."""
    widths = (inputs, *network.hidden, outputs)
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (fan_in, fan_out) in enumerate(zip(widths, widths[1:])):
        shapes[f"layers.{i}.weight"] = (network.members, fan_in, fan_out)
        shapes[f"layers.{i}.bias"] = (network.members, fan_out)
        if i < len(network.hidden) - (not norm_last):
            shapes[f"norms.{i}.weight"] = shapes[f"norms.{i}.bias"] = (network.members, fan_out)
    return shapes


def tensors_of(
    folder: Path, files: dict[str, bytes], name: str, expected: dict[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Tensors of one file, checked against the shapes that the description implies."""
    count = sum(int(np.prod(shape, dtype=object)) for shape in expected.values())
    if count > MAX_PARAMETERS:
        raise PolicyRefused(
            f"{said(folder)}: {name} would have {shown(count)} parameters; at most {MAX_PARAMETERS} are loaded"
        )
    tensors = _read(folder, files, name)
    found = {key: tuple(t.shape) for key, t in tensors.items()}
    if found != expected:
        key = sorted(set(found.items()) ^ set(expected.items()))[0][0]
        raise PolicyRefused(
            f"{said(folder / name)}: tensor {key if key in expected else shown(key)} is "
            f"{clipped(found.get(key, 'missing'))} in the file, "
            f"{expected.get(key, 'unknown')} by {DESCRIPTION}"
        )
    _check_numbers(folder, name, tensors)
    return tensors


def _check_header(data: bytes) -> None:
    """Raises ValueError where a tensor is named twice: of two, a reader takes which it likes."""
    size = int.from_bytes(data[:8], "little")
    if size > MAX_HEADER:
        raise ValueError(f"its header has {size} bytes; at most {MAX_HEADER}")
    parse_json(data[8 : 8 + size])


def any_tensors(folder: Path, files: dict[str, bytes], name: str) -> dict[str, np.ndarray]:
    """Tensors of a component of another package, which knows their shapes: float32 and finite."""
    tensors = _read(folder, files, name)
    if sum(t.size for t in tensors.values()) > MAX_PARAMETERS:
        raise PolicyRefused(
            f"{said(folder / name)} has more parameters than the {MAX_PARAMETERS} that are loaded"
        )
    _check_numbers(folder, name, tensors)
    return tensors


def _read(folder: Path, files: dict[str, bytes], name: str) -> dict[str, np.ndarray]:
    if name not in files:
        raise PolicyRefused(f"{folder}: {name} is missing")
    try:
        _check_header(files[name])
        return safetensors.numpy.load(files[name])
    except Exception as error:  # the library has its own, and numpy's for types that it lacks
        raise PolicyRefused(
            f"{said(folder / name)} is not a safetensors file: {clipped(error)}"
        ) from None


def _check_numbers(folder: Path, name: str, tensors: dict[str, np.ndarray]) -> None:
    for key, tensor in tensors.items():
        if tensor.dtype != np.float32 or not np.isfinite(tensor).all():
            raise PolicyRefused(
                f"{said(folder / name)}: tensor {shown(key)} is not finite float32 ({tensor.dtype})"
            )
