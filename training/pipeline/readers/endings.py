"""Where the episodes of a table end, and which ends are terminal: what `terminals`, `masks`,
`timeouts` and the like mean together. One place for npz, HDF5 and LeRobot; docs/contract.md has
the table.

The names are the field's, and one of them means two things: `terminals` are the ends of
trajectories in OGBench and terminal states in D4RL. What else is there decides, and where it does
not, nobody guesses: `Endings.unsaid` says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.pipeline.readers.endings_check import Kind, check_inverted, check_together
from training.pipeline.readers.endings_check import told as _told

KINDS: dict[str, Kind] = {
    **dict.fromkeys(("terminals", "terminal"), "terminals"),  # two meanings, see above
    **dict.fromkeys(("terminations", "termination", "terminated"), "terminal"),
    **dict.fromkeys(("truncations", "truncation", "truncated", "timeouts", "timeout"), "cut"),
    **dict.fromkeys(("dones", "done", "dones_float"), "done"),  # ended or cut
    **dict.fromkeys(("masks", "mask"), "mask"),  # 0 for a transition into a terminal state
    "is_last": "last",  # RLDS: this row only holds the state that the episode was left in
    "is_terminal": "state",  # RLDS: the state of this row is terminal
}
REWARDS = ("reward", "rewards", "next.reward", "next.rewards")
CLOSE = 1e-5  # relative: how near the state after one row is to that of the next, if it is the same


@dataclass(frozen=True)
class Endings:
    """The episodes of N rows.

    episodes: rows of each. last: (E,) bool, whether the last row of each only holds a state.
    terminal: (N,) bool, rows whose transition leads into a terminal state; None: nobody says.
    unsaid: why no reward can be learnt from it, should the contract name one by whatever name: ends
        are marked, and nothing says whether they are terminal; "" where it is known, or nothing is
        said at all.
    """

    episodes: tuple[slice, ...]
    last: np.ndarray
    terminal: np.ndarray | None
    unsaid: str = ""


def kind_of(name: str) -> Kind | None:
    """What an array or column of this name says of ends; "next.done" as "done". None: nothing."""
    return KINDS.get(name.removeprefix("next.").lower())


def has_rewards(names: Iterable[str]) -> bool:
    return any(name in REWARDS for name in names)


def read_endings(
    columns: Mapping[str, np.ndarray],
    rows: int,
    *,
    rewards: bool,
    following: bool = False,
    joined: np.ndarray | None = None,
    one: bool = False,
) -> Endings:
    """What the ending columns of a table say together.

    Args:
        columns: those whose `kind_of` is not None, each (N,) or (N, 1), of 0 and 1.
        rows: N.
        rewards: the table has rewards.
        following: the state after every row is known (`next_observations`, or observations that
            have one row more than actions), so that every action counts.
        joined: (N - 1,) bool, whether the state after a row is that of the next; None: unknown.
        one: all rows are of one episode, whatever the columns say within it.

    Raises:
        ValueError: a column does not fit, or two contradict each other.
    """
    said, of = _said(columns, rows)
    check_together(said, of)
    terminal, unsaid = _terminal(said, rewards, following)
    # RLDS says with is_last alone where episodes end; what else is true is so there, or a row before.
    kinds: list[Kind] = ["last"] if "last" in said else ["terminals", "terminal", "cut", "done"]
    bounds = [said[k] for k in kinds if k in said]
    marked = np.logical_or.reduce(bounds) if bounds else np.zeros(rows, bool)
    if joined is not None:
        marked[:-1] |= ~joined
    episodes = _episodes(marked, rows, one)
    check_inverted(said, of, terminal, episodes)
    if joined is None and not one and not {"terminals", "terminal", "done", "last"} & {*said}:
        _begins(said, of, marked)
    last = np.array([_only_a_state(said, terminal, e, following, bool(bounds)) for e in episodes])
    return Endings(tuple(episodes), last.astype(bool), terminal, unsaid)


def _begins(said: Mapping[Kind, np.ndarray], of: Mapping[Kind, str], marked: np.ndarray) -> None:
    """Raises ValueError where an episode ends in a terminal state, and nothing says that another one
    begins after it."""
    for kind in ("mask", "state"):
        if kind in said:
            over = said[kind]
            if (over[:-1] & ~over[1:] & ~marked[:-1] & ~marked[1:]).any():
                raise ValueError(
                    f"{_told(kind, of)} before the last row, and nothing says where episodes begin; add an "
                    "array `terminals`, true on the last row of each episode, or `next_observations`"
                )


def _said(
    columns: Mapping[str, np.ndarray], rows: int
) -> tuple[dict[Kind, np.ndarray], dict[Kind, str]]:
    """(N,) bool by kind, of a mask true where it is 0; and what the column of each kind is called."""
    said: dict[Kind, np.ndarray] = {}
    of: dict[Kind, str] = {}
    for name, column in columns.items():
        kind, values = kind_of(name), np.asarray(column)
        if kind is None:
            raise ValueError(f"{name} says nothing of ends")
        if values.shape not in ((rows,), (rows, 1)) or values.dtype.kind not in "biuf":
            raise ValueError(f"{name} must have one number for each row")
        values = values.reshape(-1)
        if not ((values == 0) | (values == 1)).all():
            raise ValueError(f"{name} must be 0 or 1 in every row")
        truth = values == 0 if kind == "mask" else values == 1
        if kind in said and (said[kind] != truth).any():
            raise ValueError(
                f"{of[kind]} and {name} mean the same and differ in row {_first(said[kind] != truth)}; "
                "keep the one that is right"
            )
        said[kind], of[kind] = truth, name
    return said, of


def _terminal(
    said: Mapping[Kind, np.ndarray], rewards: bool, following: bool
) -> tuple[np.ndarray | None, str]:
    """Rows whose transition leads into a terminal state, or None and why that is not known."""
    if "terminal" in said:
        return said["terminal"], ""
    if "mask" in said:
        return said["mask"], ""
    if "state" in said:  # the transition into it is of the row before
        return said["state"] | np.append(said["state"][1:], False), ""
    if "terminals" in said and (
        "cut" in said or "done" in said or (rewards and following)  # D4RL
    ):
        return said["terminals"], ""
    if "done" in said and "cut" in said:
        return said["done"] & ~said["cut"], ""
    if "cut" in said:
        return np.zeros_like(said["cut"]), ""
    for kind, name in (("terminals", "terminals"), ("done", "dones")):
        if kind in said:
            return None, (
                f"{name} say where episodes end, and nothing says whether they ended in a terminal "
                "state or were cut, which decides whether a reward can still come; add `masks` (0 for "
                "a transition into a terminal state, else 1) or `timeouts` (1 where an episode was "
                "cut; zeros if none was); or say in the contract how episodes ended, by a success or "
                "failure source, labels or assume_success"
            )
    return None, ""


def _episodes(marked: np.ndarray, rows: int, one: bool) -> list[slice]:
    if one or not rows:
        return [slice(0, rows)] if rows else []
    ends = np.flatnonzero(marked) + 1
    if len(ends) == 0 or ends[-1] < rows:  # the last one was still being written
        ends = np.append(ends, rows)
    return [slice(int(b), int(e)) for b, e in zip([0, *ends[:-1]], ends) if e > b]


def _only_a_state(
    said: Mapping[Kind, np.ndarray],
    terminal: np.ndarray | None,
    rows: slice,
    following: bool,
    bounded: bool,
) -> bool:
    """Whether the last row's action means nothing: OGBench's rows end with a state. A transition
    whose state after it nobody recorded is none either, unless that state is terminal."""
    if following or not bounded:
        return False
    if "last" in said:
        return bool(said["last"][rows.stop - 1])
    if terminal is None or not terminal[rows.stop - 1]:
        return True
    if any(k in said for k in ("cut", "done", "terminal")):
        return False
    # terminals and masks: of a state alone, the transition into it has the mask 0 as well
    return bool(rows.stop - rows.start > 1 and terminal[rows.stop - 2])


def _first(differ: np.ndarray) -> int:
    return int(differ.argmax())


def same_state(after: np.ndarray, state: np.ndarray) -> np.ndarray:
    """(N - 1,) bool: whether the state after each row is that of the next; both (N, ...)."""
    a, b = (x.reshape(len(x), -1) for x in (after[:-1], state[1:]))
    same = np.isclose(a, b, rtol=CLOSE, atol=CLOSE * max(_scale(state), 1e-30), equal_nan=True)
    return np.asarray(same.all(axis=1))


def _scale(values: Any) -> float:
    finite = np.abs(values[np.isfinite(values)]) if values.dtype.kind == "f" else np.abs(values)
    return float(np.median(finite)) if finite.size else 0.0
