"""The files of a policy folder: each is read once, and what is used is what was hashed.

SHA256SUMS names every file with its hash; its own hash is the policy's id. A folder is written beside
its place and moved into it.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import os
import re
import shutil
import tempfile
from pathlib import Path

from qgf_ros.errors import PolicyRefused, UsageError
from qgf_ros.files.regular import open_regular
from qgf_ros.files.strict_yaml import MAX_BYTES, clipped, shown
from qgf_ros.policy.description import DESCRIPTION
from qgf_ros.spaces.observations.image import MAX_CAMERAS

MANIFEST = "SHA256SUMS"
SAMPLER = "sampler.onnx"
MAX_FILE_BYTES = 2**30
MAX_MANIFEST_BYTES = 2**16
MAX_FILES = 32  # looked at; a policy has five
NETWORKS = 2  # files of weights of schemas 1 and 2
MAX_WEIGHTS = 16  # of schema 3, where each is named by a component
WEIGHTS = re.compile(r"[A-Za-z0-9_]\w*\.safetensors", re.ASCII)
CAMERA = re.compile(r"camera_[A-Za-z]\w*\.onnx", re.ASCII)


def said(folder: Path) -> str:
    """A path for messages: a file's name may hold bytes that cannot be printed or sent."""
    text = str(folder)
    return text if text.isprintable() and len(text) < 4096 else shown(text, 200)


def verified_files(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of every file, each read once and with the hash that the manifest says.

    Raises PolicyRefused.
    """
    here = said(folder)
    try:
        with os.scandir(folder) as entries:  # one by one: there may be millions
            present = {e.name for e in itertools.islice(entries, MAX_FILES + 1)}
    except (OSError, ValueError) as error:
        why = (
            ""
            if isinstance(error, NotADirectoryError)
            else f" ({clipped(getattr(error, 'strerror', error))})"
        )
        raise PolicyRefused(
            f"{here} is not a folder{why}; give the folder that holds {DESCRIPTION}"
        ) from None
    if len(present) > MAX_FILES:
        raise PolicyRefused(
            f"{here} holds more than {MAX_FILES} files; a policy has its own folder"
        )
    files = {MANIFEST: _read_regular(folder / MANIFEST, MAX_MANIFEST_BYTES)}
    try:
        text = files[MANIFEST].decode("ascii")
        *lines, rest = text.split("\n")
        if rest or "\r" in text:  # one policy, one id
            raise ValueError
        listed = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        if list(listed) != sorted(listed) or len(listed) < len(lines):  # in one order, each once
            raise ValueError
    except ValueError:
        raise PolicyRefused(
            f"{here}/{MANIFEST} is damaged: not lines of 'sha256  name', sorted by name"
        ) from None
    present.discard(MANIFEST)
    if set(listed) != present or DESCRIPTION not in listed:
        differ = sorted(set(listed) ^ present) or [DESCRIPTION]
        raise PolicyRefused(
            f"{here}: {MANIFEST} and the folder disagree about "
            f"{', '.join(n if n.isprintable() else shown(n) for n in differ[:5])}; restore the folder"
        )
    weights = [n for n in listed if WEIGHTS.fullmatch(n)]
    cameras = [n for n in listed if CAMERA.fullmatch(n)]
    strangers = [n for n in listed if n not in (DESCRIPTION, SAMPLER, *weights, *cameras)]
    most = NETWORKS
    if NETWORKS < len(weights) <= MAX_WEIGHTS:
        described = _read_regular(folder / DESCRIPTION, MAX_BYTES)  # not parsed in this process yet
        most = MAX_WEIGHTS if b"\ncomponents:" in described else NETWORKS
    if len(cameras) > MAX_CAMERAS:
        strangers = cameras
    if strangers or len(weights) > most:  # not read: it may be as large as a policy may be
        raise PolicyRefused(
            f"{here} holds {', '.join(map(shown, strangers[:5] or weights[:5]))}; a policy holds {DESCRIPTION}, "
            f"the weights of its components (NAME.safetensors), up to {MAX_CAMERAS} encoders (camera_NAME.onnx) "
            f"and {SAMPLER}, and nothing else"
        )
    left = MAX_FILE_BYTES
    for name, digest in listed.items():
        files[name] = _read_regular(folder / name, left, f", of {MAX_FILE_BYTES} of all files together")
        left -= len(files[name])
        actual = hashlib.sha256(files[name]).hexdigest()
        if actual != digest:
            raise PolicyRefused(
                f"{said(folder / name)} was changed: {MANIFEST} says {shown(digest, 12)}, the file "
                f"has {actual[:12]}...; copy the policy again from where it was made"
            )
    return files


def _read_regular(path: Path, limit: int = MAX_FILE_BYTES, why: str = "") -> bytes:
    """Reads a regular file whole: no FIFO can block this, no device can fill memory. why: of the limit."""
    try:
        file = open_regular(path, follow=False)
    except OSError as error:
        raise PolicyRefused(
            f"cannot read {said(path)}: {error.strerror}; a policy folder holds plain files, no links"
        ) from None
    with file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise PolicyRefused(f"{said(path)} has {size} bytes; at most {limit} are read{why}")
        try:
            return file.read(size)  # of `limit` bytes, room for all of them would be made
        except OSError as error:
            raise PolicyRefused(f"cannot read {said(path)}: {error.strerror}") from None


def write_files(folder: Path, contents: dict[str, bytes], over: str = "") -> str:
    """Writes a folder of these files and their manifest in one step (a reader sees the old one or the
    new one), and returns its id. `contents` gets the manifest.

    over: id of the policy that is replaced; "": of any one, or none. What came into its place
    meanwhile stays. Where `folder` is a link, what it leads to is replaced.

    Raises UsageError where something else is there.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    manifest = "".join(
        f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(contents.items())
    )
    contents[MANIFEST] = manifest.encode()
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, data in contents.items():
            with (staging / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        staging.chmod(0o755)
        if folder.exists():
            _check_replaceable(folder, folder, over)
            _exchange(staging, folder)  # what is deleted below is then the old one
            try:
                _check_replaceable(staging, folder, over)  # nobody came between
            except UsageError:
                _exchange(staging, folder)
                raise
        elif over:
            raise UsageError(f"{folder} is not there any more; nothing was written")
        else:
            staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return hashlib.sha256(contents[MANIFEST]).hexdigest()


def _check_replaceable(folder: Path, place: Path, over: str) -> None:
    """Only a policy folder is replaced, the one that is meant, and nothing that somebody keeps in it
    is lost. place: where it lies, or lay."""
    present = {p.name for p in folder.iterdir()} if folder.is_dir() else {folder.name}
    ours = {DESCRIPTION, MANIFEST, SAMPLER}
    strangers = sorted(
        n for n in present - ours if not (n.endswith(".safetensors") or CAMERA.fullmatch(n))
    )
    if strangers or (present and DESCRIPTION not in present):
        raise UsageError(
            f"{place} is not a policy folder alone ({', '.join(strangers[:5]) or 'no ' + DESCRIPTION}); "
            "choose another one, or move those files away"
        )
    if not over:
        return
    try:
        found = hashlib.sha256(verified_files(folder)[MANIFEST]).hexdigest()
    except PolicyRefused as error:
        found = str(error)
    if found != over:
        raise UsageError(
            f"{place} was changed while it was worked on: it is no longer the policy {over[:12]}; nothing "
            "was written. Repeat the command"
        )


def _exchange(a: Path, b: Path) -> None:
    """Swaps two folders in one step (Linux renameat2, RENAME_EXCHANGE): whoever looks, and whenever
    the power fails, there is a whole policy. Elsewhere, or on file systems without it, in two."""
    at_cwd, exchange = -100, 2
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
        if rename(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), exchange) == 0:
            return
    except (AttributeError, OSError):
        pass
    aside = a.with_name(a.name + ".old")
    b.rename(aside)
    a.rename(b)
    aside.rename(a)
