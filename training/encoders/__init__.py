"""Encoders of images, one file each: a module that makes F numbers of what a contract's `image` shows of a
camera. A new one that is learnt is a file with `Encoder(shape, features)` and its line in `ENCODERS`; or an
entry point of another package in the group `qgf.image_encoders`.

    small.py   convolutions from scratch, for cameras that see little of the world
    frozen.py  an ONNX file of the user's own: nothing is learnt, features are made once and kept
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qgf_ros.errors import UsageError
from qgf_ros.plugins import Kinds
from qgf_ros.spaces.observations.image import FROZEN
from qgf_ros.spaces.observations.source import ObservationSource

if TYPE_CHECKING:
    from torch import nn

ENCODERS = Kinds(
    "encoder",
    "qgf.image_encoders",
    {"small": f"{__name__}.small:Encoder", FROZEN: f"{__name__}.frozen:Encoder"},
)


def encoder_of(source: ObservationSource) -> nn.Module:
    """A new encoder for a camera of a contract, to be learnt.

    Raises UsageError where its kind is not known, or does not give what the contract says.
    """
    import torch

    assert source.image is not None and source.encoder is not None
    kind, features = source.encoder.kind, source.encoder.features
    if not source.is_learnt:
        raise UsageError(f"encoder of {source.name} is {kind}, of which nothing is learnt")
    try:
        made: nn.Module = ENCODERS.load(kind)(source.image.shape, features)
    except UsageError as error:
        raise UsageError(f"{source.name}: {error}") from None
    with torch.no_grad():
        found = made.eval()(torch.zeros(2, *source.image.shape, dtype=torch.uint8))
    made.train()
    if found.shape != (2, features) or found.dtype != torch.float32 or not found.isfinite().all():
        raise UsageError(
            f"encoder {kind} of {source.name} gives {tuple(found.shape)} {found.dtype} for two images; a module "
            f"Encoder(shape, features) gives (B, {features}) finite torch.float32"
        )
    return made
