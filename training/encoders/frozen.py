"""An ONNX file of the user's own. Nothing of it is learnt: its features are made once, and kept.

The contract says how it wants to see an image (`white`, `mean`, `std`); the order of its axes and its type
of number are the file's to say. In the policy it stands behind the camera's scaling, in one file.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qgf_ros.errors import DataRefused, UsageError
from qgf_ros.images.encoder import OUTPUT
from qgf_ros.spaces.observations.image import EncoderSpec
from qgf_ros.spaces.observations.source import ObservationSource
from training.encoders.onnx_file import TOGETHER, Form, open_file, session_of

PREFIX = "own/"  # before all names of the user's file, so that they are none of ours


class Encoder(nn.Module):
    """(B, H, W, C), bytes -> (B, F) float32, as the file gives them."""

    def __init__(self, source: ObservationSource, folder: Path, threads: int = 1):
        """folder: of the contract. Raises UsageError where its file cannot be used."""
        super().__init__()
        assert source.encoder is not None
        self.file = open_file(source, folder)
        self.features = source.encoder.features
        self.front = Front(source.encoder, self.file.form)
        self._session = session_of(self.file.content, threads)
        said = [source.encoder.white, source.encoder.mean, source.encoder.std, self.features]
        about = f"{self.file.sha256} {json.dumps(said)}"
        self.key = hashlib.sha256(about.encode()).hexdigest()

    def forward(self, image: Tensor) -> Tensor:
        form = self.file.form
        shown = self.front(image)[0].numpy()
        step = form.batch or TOGETHER
        rest = -len(shown) % form.batch if form.batch else 0
        whole = np.concatenate([shown, np.zeros((rest, *shown.shape[1:]), shown.dtype)])
        found = [
            self._session.run([form.output], {form.input: np.ascontiguousarray(whole[at : at + step])})[0]
            for at in range(0, len(whole), step)
        ]
        features = np.concatenate(found)[: len(shown)].reshape(len(shown), self.features)
        if not np.isfinite(features).all():
            raise DataRefused(f"{self.file.path} gives features that are not finite; check white, mean and std")
        return torch.from_numpy(np.asarray(features, np.float32))

    def behind(self, front: Any) -> Any:
        """The file's graph behind one that ends in an image as it takes it (`front`), as one ONNX model with
        the same input, and the output `OUTPUT`, (F,). Raises UsageError where they cannot be joined."""
        import onnx
        from onnx import compose, helper, numpy_helper, version_converter

        own = onnx.load_model_from_string(self.file.content)
        versions = [m.opset_import[0].version for m in (front, own)]
        try:
            # What is older is brought up: the operators' meaning is the same, and the parity shows it.
            front, own = (
                m if v == max(versions) else version_converter.convert_version(m, max(versions))
                for m, v in zip((front, own), versions)
            )
        except Exception as error:  # onnx's converter raises what it likes
            raise UsageError(
                f"{self.file.path} has operator set {versions[1]} and cannot be brought to {max(versions)}: "
                f"{' '.join(str(error).split())[:200]}; export it with operator set {max(versions)}"
            ) from None
        own = compose.add_prefix(own, PREFIX)
        front.ir_version = own.ir_version = max(front.ir_version, own.ir_version)
        (made,), (given,), (told,) = front.graph.output, own.graph.input, own.graph.output
        joined = compose.merge_models(front, own, [(made.name, given.name)])
        del joined.opset_import[1:]  # the same, of each
        shape = numpy_helper.from_array(np.array([self.features], np.int64), f"{OUTPUT}_shape")
        joined.graph.initializer.append(shape)
        joined.graph.node.append(helper.make_node("Reshape", [told.name, shape.name], [OUTPUT]))
        del joined.graph.output[:]
        told = helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, [self.features])
        joined.graph.output.append(told)
        return joined


class Front(nn.Module):
    """(B, H, W, C), bytes as numbers of any type -> (1, B, ...) as the file takes them."""

    def __init__(self, spec: EncoderSpec, form: Form):
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self._form, self._white = form, spec.white
        self.register_buffer("mean", torch.tensor(spec.mean or (0.0,)))
        self.register_buffer("std", torch.tensor(spec.std or (1.0,)))
        if form.element == "uint8" and (spec.mean or spec.std or spec.white != 1.0):
            raise UsageError(
                f"{spec.file} takes bytes as they are; white, mean and std are of files that take float: leave them "
                "out"
            )

    def forward(self, image: Tensor) -> Tensor:
        if self._form.element == "uint8":
            shown = image.to(torch.uint8)
        else:
            shown = (image.to(torch.float32) * (self._white / 255.0) - self.mean) / self.std
        # One axis more: an exported encoder gives the first of what its network gives (`export/camera.py`).
        return (shown if self._form.rows_first else shown.permute(0, 3, 1, 2)).unsqueeze(0)
