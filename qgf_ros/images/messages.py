"""Which messages hold images, and what decodes each."""

from __future__ import annotations

from typing import Any

import numpy as np

from qgf_ros.images import compressed, raw
from qgf_ros.spaces.messages.base import Make
from qgf_ros.spaces.observations.source import ObservationSource

PIXELS = {"sensor_msgs/Image": raw.pixels, "sensor_msgs/CompressedImage": compressed.pixels}


def pixels(source: ObservationSource, msg: Any, size: tuple[int, int] | None = None) -> np.ndarray:
    """(H', W', C) uint8, or uint16 of a depth: a camera's message, of either type, as its contract asks for
    it.

    Args:
        size: (width, height) of the only one that is wanted.

    Raises:
        BadImage: it cannot be read, or is of another size.
    """
    assert source.image is not None, f"{source.name} is no camera"
    if hasattr(msg, "format"):  # whose few bytes may be a large image: its size is asked before
        return compressed.pixels(msg, source.image.channels, size)
    image = raw.pixels(msg, source.image.channels)
    raw.check_size(image.shape[1], image.shape[0], size)
    return image


def message(make: Make, type_name: str, header: Any, image: np.ndarray, quality: int = 90) -> Any:
    """The message of an image: (H, W, 3) uint8 of red, green, blue, (H, W, 1) uint8 of grey, or (H, W, 1)
    uint16 of millimetres. As CompressedImage a JPEG of that quality, 1 to 100; a depth is a PNG, to the bit."""
    height, width, planes = image.shape
    kind = "16UC1" if image.dtype == np.uint16 else "rgb8" if planes == 3 else "mono8"
    if type_name == "sensor_msgs/Image":
        data = np.ascontiguousarray(image.astype(image.dtype.newbyteorder("<"), copy=False))
        return make(
            type_name, header=header, height=height, width=width, encoding=kind, is_bigendian=0,
            step=width * planes * image.dtype.itemsize, data=data.view(np.uint8).ravel(),
        )  # fmt: skip
    if image.dtype == np.uint16:
        data = np.frombuffer(compressed.depth_png(image), np.uint8)
        return make(type_name, header=header, format=f"{kind}; png compressed {kind}", data=data)
    import simplejpeg

    space = "RGB" if planes == 3 else "GRAY"
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality, space)
    said = f"{kind}; jpeg compressed {'bgr8' if planes == 3 else kind}"
    return make(type_name, header=header, format=said, data=np.frombuffer(data, np.uint8))
