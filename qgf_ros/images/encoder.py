"""A camera's encoder on the robot: what a message shows, whether it can be used, and its features.

Without ROS: the node `qgf_encoder` and replay ask the same, so that both have the same features, to the bit.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import onnxruntime

from qgf_ros.errors import DeviceUnavailable, PolicyRefused, UsageError
from qgf_ros.images.graph import check_encoder
from qgf_ros.images.messages import pixels
from qgf_ros.images.probe import fresh
from qgf_ros.images.raw import BadImage
from qgf_ros.policy.description import MAX_PARITY
from qgf_ros.policy.folder import Policy
from qgf_ros.policy.manifest import said

INPUT, OUTPUT = "image", "features"
CUDA = "CUDAExecutionProvider"
NEEDS = {"sensor_msgs/CompressedImage": ("simplejpeg", "av")}  # to decode them
DARK = 3  # of 255: a picture whose brightest pixel is no brighter is of a covered lens
SPARSE = 8  # every so many rows and columns are looked at for that


class CameraEncoder:
    """The encoder of one camera of a policy."""

    def __init__(self, policy: Policy, camera: str, device: str = "cpu", threads: int = 1) -> None:
        """
        Args:
            device: cpu, cuda or auto.
            threads: of ONNX Runtime.

        Raises:
            PolicyRefused: the file is none of an encoder that fits the contract.
            DeviceUnavailable: there is no such device here.
            UsageError: what decodes its messages is not installed.
        """
        (self.source,) = (o for o in policy.contract.recorded.observations if o.name == camera)
        (self.about,) = (c for c in policy.description.cameras if c.camera == camera)
        self.policy = policy.sha256
        check_installed(self.source.type)
        where = said(policy.folder / self.about.file)
        self._session, self.device = _open(policy.cameras[camera], where, device, threads)
        self._check(where)

    def __call__(self, msg: Any) -> np.ndarray:
        """The features (F,) float32 of an image message. Raises BadImage where nothing can be seen on it."""
        width, height = self.about.size
        image = pixels(self.source, msg, (width, height))
        check_light(image)
        return self.features(image)

    def features(self, image: np.ndarray) -> np.ndarray:
        """Of pixels as `images.messages.pixels` gives them."""
        (found,) = self._session.run([OUTPUT], {INPUT: np.ascontiguousarray(image)})
        if not np.isfinite(found).all():
            raise BadImage("the encoder's features are not finite", "IMAGE_DAMAGED")
        return np.asarray(found)

    def _check(self, where: str) -> None:
        """Raises PolicyRefused where the file takes or gives something else than the policy says."""
        assert self.source.image is not None and self.source.encoder is not None
        kind = np.uint16 if self.source.image.channels == "depth" else np.uint8
        shape = (self.about.size[1], self.about.size[0], self.source.image.shape[2])
        try:
            (found,) = self._session.run([OUTPUT], {INPUT: np.zeros(shape, kind)})
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise PolicyRefused(
                f"{where} is no encoder of {self.source.name}: {' '.join(str(error).split())[:300]}"
            ) from None
        features = self.source.encoder.features
        if found.shape != (features,):
            raise PolicyRefused(f"{where} gives {found.shape} numbers, and the contract says {features}")
        width, height = self.about.size
        known = np.array(self.about.probe).reshape(-1, features)
        for image, expected in zip(fresh(self.source.image, (width, height), 1, len(known)), known):
            off = float(np.abs(self.features(image) - expected).max())
            if not off <= MAX_PARITY:
                raise PolicyRefused(
                    f"{where} differs by {off:.2g} of a feature, here on {self.device}, from what was trained; at "
                    f"most {MAX_PARITY:g} is allowed"
                )


def check_installed(type_name: str) -> None:
    """Raises UsageError where a camera's messages could not be decoded."""
    missing = [m for m in NEEDS.get(type_name, ()) if importlib.util.find_spec(m) is None]
    if missing:
        raise UsageError(
            f"{type_name} is decoded by {', '.join(missing)}, which is not installed: pip install "
            "qgf_ros[cameras]"
        )


def check_light(image: np.ndarray) -> None:
    """Raises BadImage where nothing is to be seen: a covered lens, a depth camera that measures nothing."""
    some = image[::SPARSE, ::SPARSE]
    if image.dtype == np.uint16:
        if not some.any():
            raise BadImage("no distance was measured anywhere on the image", "IMAGE_BLACK")
    elif int(some.max()) <= DARK:
        raise BadImage(f"the image is black: its brightest pixel is {int(some.max())} of 255", "IMAGE_BLACK")


def _open(onnx: bytes, where: str, device: str, threads: int) -> tuple[Any, str]:
    check_encoder(onnx, where)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    available = onnxruntime.get_available_providers()
    wanted = [CUDA] if device != "cpu" and CUDA in available else []
    try:
        session = onnxruntime.InferenceSession(
            onnx, options, [*wanted, "CPUExecutionProvider"], enable_fallback=0
        )
    except Exception as error:
        raise PolicyRefused(f"{where}: {' '.join(str(error).split())[:300]}") from None
    found = "cuda" if CUDA in session.get_providers() else "cpu"
    if device == "cuda" and found != "cuda":
        raise DeviceUnavailable(
            f"device cuda was asked for, but ONNX Runtime offers {', '.join(available)}; use device auto or cpu"
        )
    return session, found
