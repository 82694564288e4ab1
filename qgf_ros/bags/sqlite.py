"""sqlite3 bags row by row, in the order in which they were written: whatever is whole is read.

A file is opened as immutable: sqlite neither locks it, nor writes beside it, nor looks at a journal.
Where rows cannot be read, the next ones that can are looked for by their number.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from qgf_ros.bags.damage import (
    MAX_CHANNELS,
    MAX_NAME,
    MAX_RECORD,
    Damage,
    Losses,
    check_channels,
    check_definitions,
)
from qgf_ros.bags.definitions import MAX_DEFINITION
from qgf_ros.bags.types import Channel, Choose, Definition, Message, Take
from qgf_ros.errors import StorageError
from qgf_ros.files.regular import open_regular
from qgf_ros.files.strict_yaml import shown

MAGIC = b"SQLite format 3\0"
JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")
MAX_GAPS = 1000  # damaged stretches of one file
LAST = 2**63 - 1


def read_sqlite(
    path: Path,
    name: str,
    choose: Choose,
    losses: Losses,
    expected: int | None = None,
) -> Iterator[Message]:
    """Messages of the channels that `choose` takes, with what it takes them by, in file order.

    `name` is what the file is called in `losses`; `expected` is how many messages others say it has.
    """
    uri = f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as database:
            database.execute("PRAGMA trusted_schema = OFF")
            if sys.version_info >= (
                3,
                11,
            ):  # of a name or a definition; messages are measured first
                database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_RECORD)
            # Nothing is written; with this sqlite reads a file that is shorter than it should be.
            database.execute("PRAGMA writable_schema = ON")
            channels = _channels(database, name, losses)
            takes = {n: take for n, c in channels.items() if (take := choose(c)) is not None}
            rows = _Rows(database, name, set(channels), takes, losses)
            yield from rows.messages()
            if not rows.damaged and _is_short(path):
                losses.add(f"file cut short: {name}: its end is missing, no message is")
            if rows.damaged and expected is not None and expected > rows.accounted:
                missing = expected - rows.accounted
                losses.add(f"{name}: messages behind the damage are missing", missing)
    except sqlite3.Error as error:
        raise Damage(f"{name} cannot be read as sqlite3 ({error})") from None


class _Rows:
    """The table of messages. `accounted`: rows that were read, or are lost and said so."""

    def __init__(
        self,
        database: sqlite3.Connection,
        name: str,
        known: set[int],
        takes: dict[int, Take],
        losses: Losses,
    ) -> None:
        self._database, self._name, self._takes, self._losses = database, name, takes, losses
        self._known = known
        numbers = ", ".join(map(str, takes)) or "NULL"
        # Other topics' rows are seen, but their data is not even loaded. An index may be damaged.
        self._query = (
            "SELECT rowid, topic_id, timestamp, "
            f"CASE WHEN topic_id IN ({numbers}) AND length(data) <= {MAX_RECORD} THEN data END "
            "FROM messages NOT INDEXED WHERE rowid >= ? ORDER BY rowid"
        )
        self.accounted = 0
        self.damaged = False

    def messages(self) -> Iterator[Message]:
        start = -LAST
        for _ in range(MAX_GAPS):
            last = start - 1
            try:
                for row, topic, receipt, data in self._database.execute(self._query, (start,)):
                    if row <= last:
                        raise sqlite3.DatabaseError("rows are not in order")
                    last = row
                    take = self._takes.get(topic)
                    if take is None or (isinstance(data, bytes) and isinstance(receipt, int)):
                        self.accounted += 1
                        if topic not in self._known:
                            self._losses.add(f"{self._name}: message of a topic that is lost")
                        if take is not None:
                            yield take, receipt, data
                    else:
                        self._lose("a row is no message", 1)
                return
            except (sqlite3.DatabaseError, OverflowError) as error:
                begin = max(last + 1, 1)
                found = self._next_readable(begin)
                self._lose(f"file damaged or cut short: {error}", found - begin if found else 1)
                if found is None:
                    return
                start = found
        self._lose("file damaged: in too many places; the rest is not read", 1)

    def _next_readable(self, begin: int) -> int | None:
        """The number of the first row behind `begin` that can be read again, if there is one.

        A page of the table holds rows of neighbouring numbers: ahead in growing steps, then back to
        the edge.
        """
        bad, step = begin, 1
        while (good := self._row(begin + step)) is None:
            bad, step = begin + step, 2 * step
            if begin + step >= LAST:
                return None
        limit = begin + step
        while limit - bad > 1:
            middle = (bad + limit) // 2
            if (row := self._row(middle)) is None:
                bad = middle
            else:
                limit, good = middle, row
        return good if good < LAST else None

    def _row(self, at: int) -> int | None:
        """The number of the first row from `at` on; LAST: there is none; None: it cannot be read."""
        try:
            found = self._database.execute(self._query, (at,)).fetchone()
        except sqlite3.DatabaseError:
            return None
        if found is None:
            return LAST
        return int(found[0]) if found[0] >= at else None

    def _lose(self, why: str, count: int) -> None:
        kind, _, detail = why.partition(": ")
        self._losses.add(
            f"{kind}: {self._name}: {detail}" if detail else f"{self._name}: {why}", count
        )
        self.accounted += max(1, count)
        self.damaged = True


def _channels(database: sqlite3.Connection, name: str, losses: Losses) -> dict[int, Channel]:
    """Topics by their number. Raises Damage where the tables are not those of a bag."""
    for table in ("topics", "messages"):
        if not _is_plain(database, table):
            raise Damage(f"{name} is no bag: it has no plain table {table!r}")
    if any(str(column[1]).lower() == "rowid" for column in _columns(database, "messages")):
        raise Damage(
            f"{name} is no bag: its messages have a column 'rowid', which hides their number"
        )
    there = {column[1] for column in _columns(database, "message_definitions")}
    definitions: dict[str, Definition] = {}
    if {"topic_type", "encoding", "encoded_message_definition"} <= there:
        if not _is_plain(database, "message_definitions"):
            raise Damage(f"{name} is no bag: 'message_definitions' is no plain table")
        digest = "type_description_hash" if "type_description_hash" in there else "''"
        texts = ", ".join(
            f"substr({column}, 1, {most + 1})"
            for column, most in (
                ("topic_type", MAX_NAME), ("encoding", MAX_NAME),
                ("encoded_message_definition", MAX_DEFINITION), (digest, MAX_NAME),
            )
        )  # fmt: skip
        characters = 0
        for row in _rows(database, f"SELECT {texts} FROM message_definitions"):
            found = Definition(*map(str, row[1:]))
            check_definitions(characters := characters + len(found.text))
            if definitions.setdefault(row[0], found) != found:
                raise Damage(
                    f"{name}: it defines {shown(row[0])} twice, differently: which one its messages are "
                    "of cannot be known"
                )
    names = ", ".join(
        f"substr({c}, 1, {MAX_NAME + 1})" for c in ("name", "type", "serialization_format")
    )
    channels: dict[int, Channel] = {}
    for count, (number, *row) in enumerate(
        _rows(database, f"SELECT id, {names} FROM topics ORDER BY id"), 1
    ):
        check_channels(count)
        topic, kind, encoding = map(str, row)
        if (
            not isinstance(number, int)
            or number in channels
            or max(map(len, map(str, row))) > MAX_NAME
        ):
            # Its messages are those of a topic that is lost, and counted one by one.
            losses.add(
                f"{name}: a topic whose number is none or another's, or whose name is too long: {topic}"
            )
            continue
        channels[number] = Channel(topic, kind, encoding, definitions.get(row[1], Definition()))
    return channels


def _is_plain(database: sqlite3.Connection, table: str) -> bool:
    """Whether a table is data. A view, a virtual table (which have no root page) or a column that is
    computed is code of the file's, which may run for ever."""
    query = "SELECT rootpage FROM sqlite_master WHERE type = 'table' AND name = ?"
    found = list(_rows(database, query, table))
    computed = any(column[6] for column in _columns(database, table))
    return bool(found) and bool(found[0][0]) and not computed


def _columns(database: sqlite3.Connection, table: str) -> list[Any]:
    return list(_rows(database, f"PRAGMA table_xinfo({table})"))


def _rows(database: sqlite3.Connection, query: str, *values: Any) -> Iterator[Any]:
    """At most one more than there may be topics."""
    return islice(database.execute(query, values), MAX_CHANNELS + 1)


def whole_pages(path: Path) -> int:
    """Bytes of a file up to its last whole page: sqlite takes what is missing of a page for zeros,
    and a message that reaches into it for whole."""
    with open_regular(path) as file:
        head = file.read(100)
    page = int.from_bytes(head[16:18], "big") if head.startswith(MAGIC) else 0
    size = path.stat().st_size
    return size - size % (65536 if page == 1 else page or 1)


def _is_short(path: Path) -> bool:
    """Whether there are fewer pages than the file itself says."""
    with open_regular(path) as file:
        head = file.read(100)
    page, pages = int.from_bytes(head[16:18], "big"), int.from_bytes(head[28:32], "big")
    valid = head[24:28] == head[92:96]  # sqlite's own rule of when to believe the number
    return valid and path.stat().st_size < pages * (65536 if page == 1 else page)


def names_another_file(journal: Path) -> bool:
    """Whether a journal ends in the name of a super-journal: sqlite would look for that file, which
    may be anywhere, and delete it. No bag has one."""
    with open_regular(journal) as file:
        file.seek(max(0, journal.stat().st_size - len(JOURNAL_MAGIC)))
        return file.read() == JOURNAL_MAGIC


def apply_journal(copy: Path, name: str, losses: Losses) -> None:
    """Lets sqlite complete a private copy of a file by the journal copied beside it."""
    try:
        with closing(sqlite3.connect(copy, isolation_level=None)) as database:
            database.execute("PRAGMA trusted_schema = OFF")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            database.execute("SELECT count(*) FROM sqlite_master").fetchall()
    except sqlite3.Error as error:  # the file without it
        if "disk is full" in str(error):
            raise StorageError(
                f"no room in {copy.parent} for a copy of {name}; set TMPDIR"
            ) from None
        losses.add(f"file damaged: {name}: its journal cannot be applied: {error}")
