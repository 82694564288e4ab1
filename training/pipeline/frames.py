"""Frames of cameras, as an encoder is shown them: (N, H, W, C) uint8 in files, decoded and scaled once.

Episodes say the number of the frame that was known at each tick, in the first of its camera's columns;
memory does not grow with the number of frames.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import numpy as np

from qgf_ros.bags.sources import Decoders
from qgf_ros.errors import DataRefused, PolicyRefused
from qgf_ros.images import compressed
from qgf_ros.images.fit import fit
from qgf_ros.images.graph import check_encoder
from qgf_ros.images.messages import pixels
from qgf_ros.images.raw import BadImage
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.observations.image import EncoderSpec, ImageSpec
from qgf_ros.spaces.observations.source import ObservationSource
from training.pipeline.cache import cache_folder

MOST = 2**24  # frames of a dataset: float32, in which their numbers stand, holds no more exactly
BLOCK = 256  # frames that are looked at together
Size = tuple[int, int]  # (width, height) in pixels


class Frames:
    """Frames of one camera behind each other, in one array or several: mapped from files, or in memory; or
    what was made of each."""

    def __init__(self, parts: Sequence[np.ndarray], sizes: Sequence[Size] = ()) -> None:
        """parts: (N_i, H, W, C) uint8, or (N_i, F), each, at least one. sizes: (width, height) of the images that each
        was made of."""
        self.parts, self.sizes = tuple(parts), tuple(sizes)
        self._ends = np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __deepcopy__(self, memo: dict[int, Any]) -> Frames:
        """Nobody writes to them."""
        return self

    @property
    def size(self) -> Size:
        """(width, height) of most of the images that these were made of."""
        counted = Counter[Size]()
        for part, size in zip(self.parts, self.sizes):
            counted[size] += len(part)
        return counted.most_common(1)[0][0]

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W, C) of each."""
        return self.parts[0].shape[1:]

    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        """(K,) int -> (K, H, W, C) uint8, or (K, F). Raises IndexError where there is no such frame."""
        numbers = np.asarray(numbers, np.int64)
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(self):
            raise IndexError(f"frames {numbers.min()} to {numbers.max()} of {len(self)}")
        if len(self.parts) == 1:
            return np.asarray(self.parts[0][numbers])
        out = np.empty((len(numbers), *self.shape), self.parts[0].dtype)
        part = np.searchsorted(self._ends, numbers, side="right")
        for p in np.unique(part):
            own = part == p
            before = self._ends[p] - len(self.parts[p])
            out[own] = self.parts[p][numbers[own] - before]
        return out

    @cached_property
    def digests(self) -> np.ndarray:
        """(N, 16) uint8: what tells one image from another."""
        out = np.empty((len(self), 16), np.uint8)
        for first in range(0, len(self), BLOCK):
            block = self[np.arange(first, min(first + BLOCK, len(self)))]
            for k, frame in enumerate(block):
                found = hashlib.blake2b(frame.tobytes(), digest_size=16).digest()
                out[first + k] = np.frombuffer(found, np.uint8)
        return out


# By the column of `obs` in which a camera's frame numbers stand.
ByColumn = Mapping[int, Frames]


class FrameWriter:
    """Takes the images of one camera, into a file that nobody else sees and that goes with this object;
    gives their numbers."""

    width = 1  # of what an image becomes

    def __init__(self, spec: ImageSpec) -> None:
        self._spec, self._count, self._size = spec, 0, (0, 0)
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)

    def add(self, image: np.ndarray) -> np.ndarray:
        """image: (H', W', C) as `images.messages.pixels` gives it -> (1,), its frame's number.

        Raises BadImage where it has another size than those before it: an encoder takes one.
        """
        size = image.shape[1], image.shape[0]
        if self._count:
            _same_size(size, self._size)
        self._size = size
        self._file.write(np.ascontiguousarray(fit(self._spec, image)).data)
        self._count += 1
        return np.array([self._count - 1], np.float64)

    def frames(self) -> Frames:
        """What was added so far."""
        self._file.flush()
        if not self._count:  # nothing can be mapped
            return Frames([np.empty((0, *self._spec.shape), np.uint8)], [self._size])
        shape = (self._count, *self._spec.shape)
        return Frames([np.memmap(self._file, np.uint8, "r", shape=shape)], [self._size])


# (camera, image (H', W', C), features (F,)) of whatever a FeatureWriter is given.
Watch = Callable[[str, np.ndarray, np.ndarray], None]
_WATCH: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def watched(see: Watch) -> Iterator[None]:
    """Meanwhile `see` is shown each image that this thread encodes, at the camera's own size, with its
    features: features alone are kept, and who asks for the pixels behind some reads them again."""
    before = _WATCH.set(see)
    try:
        yield
    finally:
        _WATCH.reset(before)


class FeatureWriter:
    """Encodes the images of one camera by the file of a policy, in which all of it is done."""

    def __init__(self, source: ObservationSource) -> None:
        assert source.encoder is not None
        self.width, self._camera = source.encoder.features, source.name
        self._encode = encoder_file(Path(source.encoder.file), self.width)

    def add(self, image: np.ndarray) -> np.ndarray:
        """(F,)"""
        found = self._encode(image)
        if (see := _WATCH.get()) is not None:
            see(self._camera, image, found)
        return found.astype(np.float64)

    def frames(self) -> None:
        """There are none: an observation holds the features."""


class AsRecorded(ImageSpec):
    """In place of a camera's `image`: its images are kept as they are, neither cut nor scaled."""


def as_recorded(contract: Contract) -> Contract:
    """The contract by which recordings are read whose images go on to somewhere else. Of its cameras none
    is encoded, and a recording's frames are `Kept`."""
    observations = tuple(
        o if o.image is None else replace(o, image=AsRecorded(**vars(o.image)), encoder=EncoderSpec())
        for o in contract.observations
    )
    return replace(contract, observations=observations)


class Kept(Frames):
    """Images as they were recorded, behind each other in a file that is read one image at a time: what
    was compressed still is, to the bit."""

    def __init__(
        self, file: IO[bytes], ends: Sequence[int], formats: Sequence[str | None], like: tuple[Any, ...],
        spec: ImageSpec,
    ) -> None:  # fmt: skip
        """ends: of each image in the file. formats: what a compressed one's message said of it; None: pixels.
        like: shape and dtype of each."""
        self._file, self._stops, self._formats, self._spec = file, ends, formats, spec
        self._shape, self.dtype = like

    def __len__(self) -> int:
        return len(self._stops)

    @property
    def size(self) -> Size:
        return self._shape[1], self._shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        return np.stack([self.image(int(k)) for k in numbers])

    def packed(self, k: int) -> tuple[str, bytes] | None:
        """Format and data of the message that image k came in, where that was a compressed one."""
        said = self._formats[k]
        return None if said is None else (said, self._bytes(k))

    def image(self, k: int) -> np.ndarray:
        """(H, W, C) uint8, or uint16 of a depth in mm."""
        said, data = self._formats[k], self._bytes(k)
        if said is None:
            return np.frombuffer(data, self.dtype).reshape(self._shape)
        return compressed.pixels(SimpleNamespace(format=said, data=data), self._spec.channels)

    def _bytes(self, k: int) -> bytes:
        begin = self._stops[k - 1] if k else 0
        data = os.pread(self._file.fileno(), self._stops[k] - begin, begin)
        if len(data) != self._stops[k] - begin:
            raise OSError(f"image {k} is not in its file any more")
        return data


class KeptWriter(FrameWriter):
    """Takes the images of one camera as they are."""

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__(spec)
        self._stops: list[int] = []
        self._formats: list[str | None] = []
        self._like: tuple[Any, ...] = ((0, 0, 1), np.dtype(np.uint8))

    def add(self, image: np.ndarray, packed: tuple[str, bytes] | None = None) -> np.ndarray:
        """packed: format and data of the message that held it, where it was compressed."""
        if self._stops:
            height, width, _ = self._like[0]
            _same_size((image.shape[1], image.shape[0]), (width, height))
        self._like = image.shape, image.dtype
        data = packed[1] if packed else np.ascontiguousarray(image).tobytes()
        self._file.write(data)
        self._stops.append((self._stops[-1] if self._stops else 0) + len(data))
        self._formats.append(packed[0] if packed else None)
        return np.array([len(self._stops) - 1], np.float64)

    def frames(self) -> Kept:
        self._file.flush()
        return Kept(self._file, self._stops, self._formats, self._like, self._spec)


def _same_size(size: Size, first: Size) -> None:
    if size != first:
        raise BadImage(
            f"{size[0]} x {size[1]} pixels where the recording began with {first[0]} x {first[1]}", "IMAGE_SIZE"
        )


Writer = FrameWriter | FeatureWriter


def writers(contract: Contract) -> dict[str, Writer]:
    """One for each camera of a contract, by its name."""
    return {o.name: _writer(o, o.image) for o in contract.cameras if o.image is not None}


def _writer(source: ObservationSource, spec: ImageSpec) -> Writer:
    if isinstance(spec, AsRecorded):
        return KeptWriter(spec)
    return FrameWriter(spec) if source.has_frames else FeatureWriter(source)


def decoders(contract: Contract, writers: Mapping[str, Writer]) -> Decoders:
    """What turns cameras' messages into the numbers of their frames, or features; raises `BadImage`."""
    return {o.name: (_decoder(o, writers[o.name]), writers[o.name].width) for o in contract.cameras}


def _decoder(source: ObservationSource, writer: Writer) -> Callable[[Any], bytes]:
    if not isinstance(writer, KeptWriter):
        return lambda msg: writer.add(pixels(source, msg)).tobytes()

    def keep(msg: Any) -> bytes:
        packed = (str(msg.format), bytes(msg.data)) if hasattr(msg, "format") else None
        return writer.add(pixels(source, msg), packed).tobytes()

    return keep


def frames_by_name(writers: Mapping[str, Writer]) -> dict[str, Frames]:
    """Of those cameras that have frames."""
    found = {name: writer.frames() for name, writer in writers.items()}
    return {name: frames for name, frames in found.items() if frames is not None}


@lru_cache(maxsize=4)
def encoder_file(file: Path, features: int) -> Callable[[np.ndarray], np.ndarray]:
    """What makes (F,) features of a camera's image (H', W', C) by an ONNX file as a policy has it.

    Raises DataRefused where the file is none.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        onnx = file.read_bytes()
        check_encoder(onnx, str(file))
        session = onnxruntime.InferenceSession(onnx, options, ["CPUExecutionProvider"])
        (wanted,) = session.get_inputs()
    except PolicyRefused as error:
        raise DataRefused(str(error)) from None
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise DataRefused(f"{file} is no encoder: {' '.join(str(error).split())[:300]}") from None

    def encode(image: np.ndarray) -> np.ndarray:
        shape = tuple(wanted.shape)
        if image.shape != shape:
            raise BadImage(f"an image of {image.shape}, and the encoder takes {shape}", "IMAGE_SIZE")
        (found,) = session.run(None, {wanted.name: np.ascontiguousarray(image)})
        if found.shape != (features,):
            raise DataRefused(f"{file} gives {found.shape} numbers, and the contract says {features}")
        return np.asarray(found)

    return encode


def by_column(frames: Mapping[str, Frames], contract: Contract) -> dict[int, Frames]:
    """Of frames by the camera's name."""
    return {contract.observation_slices[name].start: f for name, f in frames.items()}


def used(frames: ByColumn, obs: np.ndarray) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """By column the numbers of the frames that `obs` (R, O) names, sorted, and `obs` with their places
    among those instead."""
    kept, obs = {}, obs.copy()
    for column in frames:
        kept[column], obs[:, column] = np.unique(obs[:, column].astype(np.int64), return_inverse=True)
    return kept, obs


def digested(frames: ByColumn, obs: np.ndarray) -> bytes:
    """What the frames that `obs` (R, O) names show: the same pixels under other numbers are the same."""
    seen = [frames[c].digests[obs[:, c].astype(np.int64)].tobytes() for c in sorted(frames)]
    return b"".join(seen)
