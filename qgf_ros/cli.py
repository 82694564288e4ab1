"""`qgf <verb>`: finds the verbs, parses, runs, and turns errors into exit codes.

A verb is a frozen dataclass whose fields are its options and whose `run` returns the JSON
document, or None if it has said its documents itself. Packages offer verbs through the entry-point
group `qgf.verbs` ("data convert" is a verb in the group data), so that the robot's side never
imports training.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Protocol, Union

import tyro

from qgf_ros.console import emit
from qgf_ros.errors import QgfError, UsageError, exit_codes

GROUPS = {"data": "Datasets: look, label, convert."}
STYLE = (
    tyro.conf.OmitArgPrefixes,
    tyro.conf.OmitSubcommandPrefixes,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.PositionalMetavarFromFieldName,
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every verb has."""

    json: bool = False
    """Print exactly one JSON document on stdout; everything else goes to stderr."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True, kw_only=True)
class ReadsData(Options):
    """What every verb has that reads recordings."""

    msgs: Path | None = None
    """Folder of .msg files of types that bags do not define (package/msg/Name.msg, at any depth); a
    sourced workspace is looked through without it."""


class Verb(Protocol):
    """One command."""

    json: bool
    debug: bool

    def run(self) -> Mapping[str, Any] | None: ...


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `qgf`. Exit codes are those of `qgf_ros.errors`."""
    # Before numpy is loaded: several threads are slower on small matrices, and sum in another order,
    # so that figures would depend on how many cores there are.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    debug = "--debug" in (sys.argv if arguments is None else arguments)
    with exit_codes(debug):
        verb: Verb = tyro.cli(
            _all_verbs(),
            prog="qgf",
            args=arguments,
            description="Q-Guided Flow: recorded robot data to a guided robot.",
            config=STYLE,
        )
        if (msgs := getattr(verb, "msgs", None)) is not None:
            from qgf_ros.bags.msg_files import use_folder

            use_folder(msgs)
        try:
            document = verb.run()
        except QgfError as error:
            if verb.json and error.document is not None:
                emit(error.document)
            raise
        if verb.json and document is not None:
            emit(document)
    return 0


def _all_verbs() -> Any:
    """The type that tyro parses into: a union of verbs, and of groups of verbs."""
    found = {
        point.name: point.load()
        for point in sorted(entry_points(group="qgf.verbs"), key=lambda p: p.name)
    }
    if not found:
        raise UsageError(
            "no verbs are installed; install the package with `pip install .[train]` or colcon"
        )
    top: list[Any] = []
    groups: dict[str, list[Any]] = defaultdict(list)
    for name, verb in found.items():
        group, _, rest = name.rpartition(" ")
        (groups[group] if group else top).append(Annotated[verb, tyro.conf.subcommand(rest)])
    for group, verbs in groups.items():
        if len(verbs) == 1:  # tyro makes a subcommand of a union only
            verbs.append(Annotated[_Help, tyro.conf.subcommand("help")])
        kind: Any = Union[tuple(verbs)]  # noqa: UP007
        top.append(Annotated[kind, tyro.conf.subcommand(group, description=GROUPS[group])])
    return Union[tuple(top)]  # noqa: UP007


@dataclass(frozen=True, kw_only=True)
class _Help(Options):
    """Point at --help."""

    def run(self) -> Mapping[str, Any]:
        raise UsageError("run it with --help to see what there is")


if __name__ == "__main__":
    sys.exit(main())
