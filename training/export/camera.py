"""A camera's encoder as an ONNX file that takes what the camera sends: cutting and scaling are inside.

The scaling is that of `qgf_ros/images/fit.py`: whole numbers, whose sums are exact in any order, so that
the file and numpy give the encoder the same bytes.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from qgf_ros.errors import CriterionNotMet
from qgf_ros.images.fit import FAR, area_block, fit, millimetres, rounded, window
from qgf_ros.images.graph import check_encoder
from qgf_ros.images.probe import fresh
from qgf_ros.policy.description import MAX_PARITY
from qgf_ros.spaces.observations.image import ImageSpec
from training.encoders.frozen import Encoder as Frozen

INPUT, OUTPUT = "image", "features"
OPSET = 20
SEED = 0  # of the images that the file is compared on
PROBED = 3  # of other images, whose features the policy holds: the robot asks for them again


class FromCamera(nn.Module):
    """(H', W', C) as `images.raw.pixels` gives it -> (F,) features."""

    def __init__(self, encoder: nn.Module, spec: ImageSpec, size: tuple[int, int]):
        """size: (width, height) of the camera's images."""
        super().__init__()
        self.down: Tensor
        self.across: Tensor
        self.encoder, self.spec = encoder, spec
        self.rows, self.columns = window(spec, size[1], 0), window(spec, size[0], 1)
        self.height = self.rows.stop - self.rows.start
        self.width = self.columns.stop - self.columns.start
        # A colour's first sum is exact in float32, see `fit._sums`.
        self.first = torch.float64 if spec.channels == "depth" else torch.float32
        down = torch.from_numpy(area_block(self.height, spec.size[1]))
        across = torch.from_numpy(area_block(self.width, spec.size[0]).T.copy())
        self.register_buffer("down", down.to(self.first))
        self.register_buffer("across", across.to(torch.float64))

    def forward(self, image: Tensor) -> Tensor:
        cut = image[self.rows, self.columns].to(self.first)
        total = self._sums(cut)
        if self.spec.channels != "depth":
            shown = rounded(total, self.height * self.width)
        else:
            measured = self._sums((cut > 0).to(self.first))
            near, far = millimetres(self.spec)
            deep = rounded(total, measured.clamp(min=1)).clamp(near, far)
            shown = 1 + rounded((deep - near) * (FAR - 1), far - near)
            shown = torch.where(2 * measured > self.height * self.width, shown, 0)
        return self.encoder(shown.to(torch.float32).unsqueeze(0))[0]

    def _sums(self, cut: Tensor) -> Tensor:
        """(H', W', C) -> (h, w, C) int64."""
        planes, rows = cut.shape[2], self.spec.size[1]
        high, wide = self.down.shape[1], self.across.shape[0]  # of a block, see `area_block`
        tall = self.down @ cut.reshape(self.height // high, high, self.width * planes)
        turned = tall.reshape(rows, self.width, planes).transpose(1, 2).to(torch.float64)
        summed = turned.reshape(rows * planes * self.width // wide, wide) @ self.across
        return summed.reshape(rows, planes, self.spec.size[0]).transpose(1, 2).to(torch.int64)


def export_camera(encoder: nn.Module, spec: ImageSpec, size: tuple[int, int]) -> bytes:
    """The ONNX file of an encoder (B, H, W, C) -> (B, F), for images of (width, height) pixels."""
    frozen = encoder if isinstance(encoder, Frozen) else None
    module = FromCamera(frozen.front if frozen else encoder, spec, size).eval()
    kind = torch.uint16 if spec.channels == "depth" else torch.uint8
    example = torch.zeros(size[1], size[0], spec.shape[2], dtype=kind)
    with _quiet():
        program: Any = torch.onnx.export(
            module, (example,), dynamo=True, opset_version=OPSET, input_names=[INPUT],
            output_names=["shown" if frozen else OUTPUT], verbose=False, external_data=False,
        )  # fmt: skip
        model = frozen.behind(program.model_proto) if frozen else program.model_proto
        for item in (model.graph, *model.graph.node, *model.graph.value_info):
            del item.metadata_props[:]  # stack traces with paths of this machine
        onnx: bytes = model.SerializeToString()
    check_encoder(onnx, "the exported encoder")
    return onnx


def camera_parity(encoder: nn.Module, spec: ImageSpec, size: tuple[int, int], onnx: bytes) -> float:
    """The largest difference of a feature between the file and training's way, numpy and `encoder`, on
    fresh images. Raises CriterionNotMet where that is more than a robot may differ."""
    session = session_of(onnx)
    worst = 0.0
    for image in [*flat(spec, size), *fresh(spec, size, SEED)]:
        (got,) = session.run([OUTPUT], {INPUT: image})
        with torch.no_grad():
            expected = encoder(torch.from_numpy(fit(spec, image)[None]))[0].numpy()
        worst = max(worst, float(np.abs(got - expected).max()))
    if not worst <= MAX_PARITY:
        raise CriterionNotMet(
            f"the exported encoder differs by {worst:.2g} of a feature from the one that was trained; at most "
            f"{MAX_PARITY:g} is allowed: nothing was written"
        )
    return worst


def flat(spec: ImageSpec, size: tuple[int, int]) -> list[np.ndarray]:
    """Black, and white: of a depth nothing measured, and all of it far away."""
    high, kind = (65_535, np.uint16) if spec.channels == "depth" else (255, np.uint8)
    return [np.full((size[1], size[0], spec.shape[2]), value, kind) for value in (0, high)]


def probe(encoder: nn.Module, spec: ImageSpec, size: tuple[int, int]) -> tuple[float, ...]:
    """Features of PROBED images by training's own way, one after the other."""
    with torch.no_grad():
        shown = [torch.from_numpy(fit(spec, image)[None]) for image in fresh(spec, size, 1, PROBED)]
        return tuple(float(f) for image in shown for f in encoder(image)[0])


def session_of(onnx: bytes) -> Any:
    """On one core of the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(onnx, options, ["CPUExecutionProvider"])


class _quiet(warnings.catch_warnings):
    """The exporter's own deprecations, and that torchvision, which nobody needs, is absent."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")
        self._logger = logging.getLogger("torch.onnx._internal.exporter._registration")
        self._level = self._logger.level
        self._logger.setLevel(logging.ERROR)

    def __exit__(self, *given: Any) -> None:
        self._logger.setLevel(self._level)
        super().__exit__(*given)
