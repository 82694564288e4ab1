"""A policy folder is looked at by a child process first, within limits, and then taken over.

A policy may come from anywhere, and its files are parsed and run by libraries: YAML, safetensors,
ONNX Runtime. Whatever they do with a hostile file (fill the memory, compute for ever, crash), they do
to the child. It is given the bytes that were read and hashed here, loads them as `load_policy` does,
opens the sampler and samples once; then it answers with what policy.yaml says as JSON, or with the
reason of a refusal. Only after that are the same bytes used in this process, which drives a robot.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, NoReturn

from qgf_ros.errors import DeviceUnavailable, PolicyRefused, QgfError, UsageError
from qgf_ros.processes import signal_at_parents_death

WALL = 60.0  # s, of the child, on a machine that does other things too
CPU = 30  # s; a shipped policy takes about one
MEMORY = 3 * 2**30  # bytes of address space, beside six times the files; ONNX Runtime maps one
FACTOR = 6
MOST_CANDIDATES = 64  # that a sample may have, see the node's parameter num_candidates
MAX_ANSWER = 16 * 2**20
LOOK = 0.05  # s, how soon a wish to stop is noticed
# The child finds modules where this process does, whatever the working directory.
BOOT = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from {} import child; child()"
HERE = "qgf_ros.policy.vetting"
ERRORS = {e.__name__: e for e in (PolicyRefused, UsageError, DeviceUnavailable)}


class Interrupted(QgfError):
    """The process is to end: what was asked for is not done."""


@dataclass(frozen=True)
class Use:
    """How a policy's sampler is going to be run, as for `make_sampler`."""

    backend: str = "auto"
    device: str = "auto"
    precision: str = "float32"
    candidates: int = 1


def vetted_policy(
    folder: str | Path,
    contract: Any = None,
    use: Use | None = None,
    stopping: Callable[[], bool] = lambda: False,
    wall: float = WALL,
    cameras: bool = False,
) -> Any:
    """As `policy.load_policy`, for a process that must outlive any folder.

    Args:
        contract: the robot's own, as for `load_policy`.
        use: the sampler that is going to be made of it, which the child tries on the CPU; None: none.
        stopping: asked every 50 ms; True ends the child.
        wall: s that the child may take.
        cameras: the encoders of its cameras are going to be opened, which the child tries on the CPU.

    Raises:
        PolicyRefused: as `load_policy`; also where the child died, or took too long or too much.
        Interrupted: `stopping` said so.
    """
    from qgf_ros.policy.folder import policy_of
    from qgf_ros.policy.manifest import said, verified_files

    folder = Path(folder)
    files = verified_files(folder)
    about = {
        "folder": os.fsencode(folder).hex(),
        "use": None if use is None else vars(use),
        "cameras": cameras,
    }
    answer = ask_child(HERE, said(folder), "policy", about, files, stopping, wall)
    policy = policy_of(folder, files, answer["content"], contract)
    return replace(policy, graph_checked=answer["opened"] == "onnx")


def ask_child(
    module: str,
    where: str,
    what: str,
    about: dict[str, Any],
    files: dict[str, bytes],
    stopping: Callable[[], bool] = lambda: False,
    wall: float = WALL,
) -> dict[str, Any]:
    """What `module`.child, in a process of its own and within limits, answers of these files.

    Args:
        where, what: the place and the kind of thing, for messages.
        about: whatever else it is told, as JSON.

    Raises:
        PolicyRefused: it says so, died, or took too long or too much.
        Interrupted: `stopping` said so.
    """
    request = about | {
        "parent": os.getpid(),
        "files": {name: len(data) for name, data in files.items()},
    }
    head = json.dumps(request).encode()
    try:
        with _anonymous() as file:
            for part in (len(head).to_bytes(8, "little"), head, *files.values()):
                file.write(part)
            file.flush()
            file.seek(0)
            text, status = _run(file, stopping, time.monotonic() + wall, module)
    except TimeoutError:
        raise PolicyRefused(
            f"{where}: it was not verified within {wall:g} s; the {what} is not sound, or the machine "
            "has no time for it"
        ) from None
    except (OSError, RuntimeError, MemoryError) as error:
        raise PolicyRefused(
            f"{where}: no process could be started to verify it ({error}); free memory, or raise the "
            "limits of processes and open files"
        ) from None
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        raise PolicyRefused(
            f"{where}: the process that verified it ended {_how(status)} and without an answer: it took "
            f"more memory or time than a {what} needs, or crashed a library; do not use this {what}"
        ) from None
    if "error" in answer:
        raise ERRORS.get(answer["kind"], PolicyRefused)(answer["error"])
    return answer  # type: ignore[no-any-return]


def _anonymous() -> IO[bytes]:
    """A file without a name: in memory, or where the system has no such thing on the disk."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("qgf-policy"), "w+b")
    return tempfile.TemporaryFile()


def _run(
    file: IO[bytes], stopping: Callable[[], bool], until: float, module: str = HERE
) -> tuple[bytes, int]:
    """What the child wrote, and its exit status. It and whatever it started are gone afterwards."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            BOOT.format(module),
            json.dumps([str(Path(p or ".").absolute()) for p in sys.path]),
        ],
        stdin=file,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=dict(os.environ) | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    try:
        return _read(process.stdout.fileno(), stopping, until), process.wait(1.0)
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def _read(pipe: int, stopping: Callable[[], bool], until: float) -> bytes:
    parts, size = [], 0
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            if stopping():
                raise Interrupted("stopped while a policy was being verified")
            if time.monotonic() > until:
                raise TimeoutError
            if not selector.select(LOOK):
                continue
            part = os.read(pipe, 2**16)
            parts.append(part)
            size += len(part)
            if not part or size > MAX_ANSWER:
                return b"".join(parts)


def _how(status: int) -> str:
    if status < 0:
        return f"by signal {signal.Signals(-status).name}"
    return f"with status {status}"


# In the child.


def child() -> None:
    """Looks at a policy."""
    answer_parent(_answer)


def answer_parent(answer: Callable[[dict[str, Any], dict[str, bytes]], dict[str, Any]]) -> NoReturn:
    """Reads the request, answers, and ends. Limits come first. answer: of what it was told, and the files."""
    stdin, out = sys.stdin.buffer, os.dup(1)
    os.dup2(2, 1)  # what a library prints is no answer
    head = json.loads(stdin.read(int.from_bytes(stdin.read(8), "little")))
    _limit(head["parent"], sum(head["files"].values()))
    files = {name: stdin.read(size) for name, size in head["files"].items()}
    text = json.dumps(answer(head, files))
    with os.fdopen(out, "wb") as stream:
        stream.write(text.encode())
    os._exit(0)  # native libraries have nothing to put in order


def _limit(parent: int, size: int) -> None:
    """Memory, time, processor, files; and the parent's death is this one's."""
    signal_at_parents_death(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    for kind, most in (
        (resource.RLIMIT_AS, MEMORY + FACTOR * size),
        (resource.RLIMIT_CPU, CPU + size // 10_000_000),
        (resource.RLIMIT_FSIZE, MAX_ANSWER),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def _answer(head: dict[str, Any], files: dict[str, bytes]) -> dict[str, Any]:
    """What the parent is told; a refusal for whatever goes wrong."""
    from qgf_ros.policy.manifest import said

    folder = Path(os.fsdecode(bytes.fromhex(head["folder"])))
    use = None if head["use"] is None else Use(**head["use"])
    return refusing(
        lambda: look(folder, files, use, head["cameras"]), said(folder), "train or export it again"
    )


def refusing(work: Callable[[], dict[str, Any]], where: str, remedy: str) -> dict[str, Any]:
    """What `work` answers; what it raises, as a refusal."""
    try:
        return work()
    except QgfError as error:
        return {"kind": type(error).__name__, "error": str(error)}
    except Exception as error:  # whatever a library raises for a file that is none of ours
        from qgf_ros.files.strict_yaml import clipped

        text = f"{where}: {type(error).__name__}: {clipped(error)}; {remedy}"
        return {"kind": "PolicyRefused", "error": text}


def look(
    folder: Path, files: dict[str, bytes], use: Use | None, cameras: bool = False
) -> dict[str, Any]:
    """Loads the policy and tries its sampler, and the encoders of its cameras where they are asked for.

    Returns:
        content: what policy.yaml says; opened: the backend that was tried, "" for none.
    """
    from qgf_ros.files.strict_yaml import parse_yaml
    from qgf_ros.policy.description import DESCRIPTION
    from qgf_ros.policy.folder import policy_of
    from qgf_ros.policy.manifest import said

    try:
        content = parse_yaml(files[DESCRIPTION], DESCRIPTION)
    except UsageError as error:
        raise PolicyRefused(f"{said(folder)}: {error}") from None
    policy = policy_of(folder, files, content)
    if cameras:
        from qgf_ros.images.encoder import CameraEncoder

        for camera in policy.cameras:
            CameraEncoder(policy, camera)
    return {"content": content, "opened": "" if use is None else _try(policy, use)}


def _try(policy: Any, use: Use) -> str:
    """Draws samples of as many candidates as will be asked for, and as ever may be, on the CPU."""
    import numpy as np

    from qgf_ros.guidance import registry

    if use.backend == "torch":
        return ""  # of the weights alone, which have been looked at
    # What is first tried on CUDA there is tried on the CPU here.
    first, device = registry.candidates(policy, use.backend, use.device, use.precision)[0]
    backend = first.name if device == "cuda" else use.backend
    sampler = registry.unchecked_sampler(policy, backend, "cpu", 1, use.precision)
    # The number of candidates may be changed later, and what a graph takes may grow by its power.
    for candidates in {use.candidates, MOST_CANDIDATES}:
        noise = np.zeros((candidates, policy.flat_dim), np.float32)
        sampler(np.zeros(policy.obs_dim, np.float32), noise, 1.0)
    return sampler.backend
