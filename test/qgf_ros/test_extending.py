"""docs/extending.md: what it leads to is there, and every group of entry points has an example."""

import re
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/extending.md").read_text()


def test_what_it_leads_to_is_there():
    links = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert len(links) > 20
    assert not [link for link in links if not (ROOT / "docs" / link).exists()]
    folders = re.findall(r"`((?:qgf_ros|training)/[\w/]+/)`", PAGE)
    assert len(folders) > 5 and all((ROOT / folder).is_dir() for folder in folders)


def test_the_table_has_the_twelve_changes_in_the_order_of_the_sections():
    rows = re.findall(r"^\| (\d+)\. ", PAGE, re.M)
    sections = re.findall(r"^## (\d+)\. ", PAGE, re.M)
    assert rows == sections == [str(n) for n in range(1, 13)]


def test_every_group_of_entry_points_has_an_example():
    examples = (ROOT / "test/plugins/pyproject.toml").read_text()
    given = set(re.findall(r'^\[project\.entry-points\."(.+)"\]$', examples, re.M))
    code = [
        p.read_text() for folder in ("qgf_ros", "training") for p in (ROOT / folder).rglob("*.py")
    ]
    known = set(re.findall(r'"(qgf\.\w+)"', "\n".join(code))) - {"qgf.verbs"}
    assert given == known
    assert all(f'"{group}"' in PAGE for group in given)


def test_the_tables_that_it_names_are_there():
    for module, table in (
        ("qgf_ros.spaces.observations", "KINDS"),
        ("qgf_ros.spaces.actions", "KINDS"),
        ("qgf_ros.spaces.messages", "TYPES"),
        ("qgf_ros.spaces.messages.tree", "PARTS"),
        ("qgf_ros.control.reasons", "REASONS"),
        ("training.pipeline.readers.formats", "FORMATS"),
        ("training.judge.panels", "PANELS"),
        ("training.learn.critics", "Kind"),
    ):
        assert f"`{table}`" in PAGE or f".{table}`" in PAGE
        assert hasattr(import_module(module), table)
