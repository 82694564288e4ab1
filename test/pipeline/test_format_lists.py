"""Every list of the formats that are read is the readers' table: help, errors, README."""

import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("tyro")

import tyro

from qgf_ros.cli import STYLE, _all_verbs
from qgf_ros.errors import DataRefused
from training.pipeline.readers import load
from training.pipeline.readers.formats import FORMATS, READABLE, READERS
from training.pipeline.writers.formats import WRITERS, writer
from training.verbs import DataConvert

ROOT = Path(__file__).resolve().parents[2]
NAMES = [f.name for f in FORMATS]


def test_every_reader_is_in_the_table():
    folder = ROOT / "training/pipeline/readers"
    written = {
        f"{path.stem}:{name}"
        for path in folder.glob("*.py")
        for name in re.findall(r"^class (\w+Reader)\b(?!\(Protocol\))", path.read_text(), re.M)
    }
    assert {f.reader for f in FORMATS} == written
    assert [READERS.load(f.name).__name__ for f in FORMATS] == [f.reader.split(":")[1] for f in FORMATS]


@pytest.mark.parametrize(
    "verb",
    ["train", "analyze", "report", "data inspect", "data init", "data convert", "data label"],
)
def test_help_names_every_format(verb, capsys, monkeypatch):
    with pytest.raises(SystemExit):
        tyro.cli(_all_verbs(), args=[*verb.split(), "--help"], config=STYLE)
    shown = " ".join(re.sub(r"[^\w\s.,:;()/`'-]", " ", capsys.readouterr().out).split())
    assert READABLE in shown


def test_errors_name_every_format(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataRefused) as refused:
            load.find_reader(path)
        assert all(name in str(refused.value) for name in NAMES)


def test_documents_name_every_format():
    table = (ROOT / "README.md").read_text().split("| reads | what |\n|---|---|\n")[1]
    rows = [line.split("|")[1].strip() for line in table.split("\n\n")[0].splitlines()]
    assert sorted(rows) == sorted(NAMES)


def test_formats_to_write_are_one_table():
    assert get_args(get_type_hints(DataConvert)["to"]) == tuple(WRITERS)
    assert f"--to {'|'.join(WRITERS)}" in (ROOT / "README.md").read_text()
    assert all(writer(name).write for name in WRITERS)
