"""Message types that a bag does not define: .msg files of the sourced workspace, or of a folder.

Bags of ROS 2 Humble in sqlite3 hold no definitions. Where a type is not one of ROS itself, it is
looked for by its name, package/msg/Name, in the folders that `QGF_MSGS` names (`--msgs` of a verb
sets it), and then where a sourced workspace has installed it.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from qgf_ros.bags.damage import Damage
from qgf_ros.bags.definitions import MAX_DEFINITION, TYPE_NAME
from qgf_ros.errors import UsageError
from qgf_ros.files.regular import open_regular

VARIABLE = "QGF_MSGS"  # the processes that a verb starts inherit it
MAX_FILES = 100_000  # below a folder that was given


def use_folder(folder: Path | None) -> None:
    """Takes the .msg files below a folder for types that bags do not define, in this process and
    in those that it starts. None: nothing changes.

    Raises UsageError where there are none.
    """
    if folder is None:
        return
    if not folder.is_dir():
        raise UsageError(f"--msgs {folder} is no folder; give one that holds package/msg/Name.msg")
    if not _below(folder.resolve()):
        raise UsageError(f"--msgs {folder} holds no .msg file; give the package that defines them")
    os.environ[VARIABLE] = str(folder.resolve())


def find_msg(name: str) -> str | None:
    """The text of the .msg file of a type, "package/msg/Name"; None where there is none.

    Raises Damage where two of them say different things, or one cannot be read.
    """
    package, _, message = name.partition("/msg/")
    if not TYPE_NAME.fullmatch(name) or not message or "/" in message:
        return None
    for folder in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        files = _below(Path(folder))
        if found := files.get((package, message)) or files.get(("", message)):
            texts = {_text(file): file for file in found}
            if len(texts) > 1:
                raise Damage(f"{name} is defined twice: {', '.join(map(str, texts.values()))}")
            return next(iter(texts))
    for prefix in filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)):
        file = Path(prefix, "share", package, "msg", f"{message}.msg")
        if file.is_file():
            return _text(file)
    return None


@lru_cache(4)
def _below(folder: Path) -> dict[tuple[str, str], tuple[Path, ...]]:
    """(package, name) -> files. A file that is in no folder `msg` may be of any package ("")."""
    found: dict[tuple[str, str], tuple[Path, ...]] = {}
    seen = 0
    for place, folders, files in os.walk(folder):
        folders.sort()
        seen += len(files)
        if seen > MAX_FILES:
            raise UsageError(
                f"{folder} holds more than {MAX_FILES} files; give the package that defines the types"
            )
        for file in sorted(f for f in files if f.endswith(".msg")):
            path = Path(place, file)
            if path.is_file():
                package = path.parent.parent.name if path.parent.name == "msg" else ""
                key = (package, path.stem)
                found[key] = (*found.get(key, ()), path)
    return found


def _text(file: Path) -> str:
    try:
        with open_regular(file) as opened:
            raw = opened.read(4 * MAX_DEFINITION)
    except OSError as error:
        raise Damage(f"{file}: {error.strerror}") from None
    return raw.decode("utf-8-sig", errors="replace").replace("\r\n", "\n").rstrip() + "\n"
