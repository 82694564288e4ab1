"""Encoders of images that are learnt, one file each: a module `Encoder(shape, features)` that makes F numbers
of what a contract's `image` shows of a camera. A new one is a file and its name in `Kind`.

    small.py  convolutions from scratch, for cameras that see little of the world

`frozen` is none of them: the features of an ONNX file of yours are made when data is prepared.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Literal, get_args

from qgf_ros.errors import UsageError
from qgf_ros.spaces.observations.source import ObservationSource

if TYPE_CHECKING:
    from torch import nn

Kind = Literal["small"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def encoder_of(source: ObservationSource) -> nn.Module:
    """A new encoder for a camera of a contract. Raises UsageError where its kind is not known."""
    assert source.image is not None and source.encoder is not None
    if source.encoder.kind not in KINDS:
        raise UsageError(
            f"encoder of {source.name} is {source.encoder.kind}; known: {', '.join(KINDS)}"
        )
    module = import_module(f"{__name__}.{source.encoder.kind}")
    made: nn.Module = module.Encoder(source.image.shape, source.encoder.features)
    return made
