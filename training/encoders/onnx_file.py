"""An ONNX file of the user's own as an encoder of images: which form its input has, what it gives.

Whatever is wrong with the file (one that fills the memory, computes for ever, crashes ONNX Runtime) meets
a child process first, within limits. Nothing of torch here: the child starts in a moment.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ros.errors import PolicyRefused, UsageError
from qgf_ros.files.regular import open_regular
from qgf_ros.images.graph import check_encoder
from qgf_ros.policy import vetting
from qgf_ros.policy.manifest import said
from qgf_ros.spaces.observations.source import ObservationSource

MOST_BYTES = 2**28  # of a file; a large vision transformer's are 350 MB, and no robot's processor runs it
TOGETHER = 16  # images that are given to it at once, where it takes as many as it is given
REMEDY = "export it again: images in, numbers out, and nothing else"
ELEMENTS = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}


@dataclass(frozen=True)
class Form:
    """How a file takes images and what it gives.

    element: float32 or uint8. rows_first: (N, H, W, C), else (N, C, H, W). batch: N that it takes, 0: any.
    """

    input: str
    output: str
    element: str
    rows_first: bool
    batch: int


@dataclass(frozen=True)
class OnnxFile:
    """A file that was read once, verified, and tried."""

    path: Path
    content: bytes
    form: Form

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def open_file(source: ObservationSource, folder: Path) -> OnnxFile:
    """The file of a camera whose encoder is frozen. folder: of the contract.

    Raises UsageError where it is not there, or is no encoder of that camera's images.
    """
    assert source.image is not None and source.encoder is not None
    path = folder / source.encoder.file
    where = f"encoder of {source.name}, {said(path)}"
    try:
        with open_regular(path) as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"{where}: {error.strerror}; encoder.file is the path of an ONNX file below the contract's folder"
        ) from None
    if len(content) > MOST_BYTES:
        raise UsageError(f"{where} has more than {MOST_BYTES} bytes; give a smaller network")
    about = {"where": where, "shape": source.image.shape, "features": source.encoder.features}
    try:
        check_encoder(content, where)
        found = vetting.ask_child(__name__, where, "encoder", about, {"onnx": content})
    except PolicyRefused as error:
        raise UsageError(str(error)) from None
    return OnnxFile(path, content, Form(**found["form"]))


def session_of(onnx: bytes, threads: int = 1) -> Any:
    """On the CPU. The file was verified."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(onnx, options, ["CPUExecutionProvider"])


def form_of(session: Any, shape: tuple[int, int, int]) -> Form:
    """shape: (H, W, C) of what it is going to be shown. Raises UsageError where it takes something else."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise UsageError(f"it has {len(inputs)} inputs and {len(outputs)} outputs; allowed: one of each")
    (given,), (told,) = inputs, outputs
    if given.type not in ELEMENTS or told.type != "tensor(float)":
        raise UsageError(
            f"it takes {given.type} and gives {told.type}; allowed: float or uint8 in, float out"
        )
    height, width, channels = shape
    for rows_first, wanted in ((False, (channels, height, width)), (True, shape)):
        if len(given.shape) == 4 and _takes(given.shape[1:], wanted, 2 if rows_first else 0):
            batch = given.shape[0]
            return Form(
                given.name, told.name, ELEMENTS[given.type], rows_first, batch if isinstance(batch, int) else 0
            )
    raise UsageError(
        f"it takes {given.shape}, and image says {width} x {height} pixels of {channels}; allowed: (N, {channels}, "
        f"{height}, {width}) or (N, {height}, {width}, {channels}); N, height and width may be open"
    )


def _takes(sizes: list[Any], wanted: tuple[int, ...], channels: int) -> bool:
    """Whether a shape is `wanted`, where it is not open; channels: their place, which tells the forms apart."""
    open_or_same = all(not isinstance(n, int) or n == w for n, w in zip(sizes, wanted))
    return open_or_same and sizes[channels] == wanted[channels]


def child() -> None:
    """In a process of its own, see `vetting`."""
    vetting.answer_parent(_answer)


def _answer(head: dict[str, Any], files: dict[str, bytes]) -> dict[str, Any]:
    return vetting.refusing(
        lambda: _tried(files["onnx"], tuple(head["shape"]), head["features"], head["where"]),
        head["where"],
        REMEDY,
    )


def _tried(onnx: bytes, shape: tuple[int, int, int], features: int, where: str) -> dict[str, Any]:
    """Shown as many images as ever at once."""
    check_encoder(onnx, where)
    session = session_of(onnx)
    try:
        form = form_of(session, shape)
        count = form.batch or TOGETHER
        height, width, channels = shape
        sizes = shape if form.rows_first else (channels, height, width)
        (found,) = session.run([form.output], {form.input: np.zeros((count, *sizes), form.element)})
        if found.shape[0] != count or found.size != count * features:
            raise UsageError(
                f"it gives {found.shape} for {count} images, and the contract says features: {features}; give "
                f"features: {found.size // count}, or a file that gives {features}"
            )
        if not np.isfinite(found).all():
            raise UsageError("what it gives for a black image is not finite")
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    return {"form": asdict(form)}
