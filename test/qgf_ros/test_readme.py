"""The README says what the code says: parameters, topics, message types, exit codes, links."""

import json
import re
from pathlib import Path

import pytest

from qgf_ros import errors
from qgf_ros.control.settings import TABLE

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def rows(heading: str) -> list[list[str]]:
    section = README.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_parameter_table_is_the_one_in_code():
    assert rows("Parameters") == [list(spec.readme_row) for spec in TABLE]


def test_every_own_topic_and_service_is_in_the_table():
    source = "".join(path.read_text() for path in (ROOT / "qgf_ros/ros").glob("*.py"))
    named = set(re.findall(r'"(~/\w+|/diagnostics)"', source))
    listed = {cell.strip("`") for row in rows("Topics") for cell in row if cell.startswith("`")}
    assert named == listed


def test_exit_codes_are_all_named():
    codes = {c.code for c in vars(errors).values() if isinstance(c, type) and hasattr(c, "code")}
    text = README.split("Exit codes:")[1].split("\n")[0]
    assert codes | {0} == {int(n) for n in re.findall(r"\b(\d) [a-z]", text)}


@pytest.mark.parametrize("link", re.findall(r"\]\(((?!https?:)[^)#]+)\)", README))
def test_links_lead_somewhere(link):
    assert (ROOT / link).exists()


def test_the_benchmark_table_is_what_was_measured():
    """Pooled over the training seeds, with the interval that `Rate` gives."""
    from training.judge.evaluate import Rate

    results = json.loads((ROOT / "bench/results/ogbench-cube-single.json").read_text())
    for cells in rows("A task that nobody here designed"):
        name = cells[0].strip("`")
        mine = [r for r in results if r["sampler"] == name]
        assert mine, f"{name} is not in the results"
        rate = Rate(sum(r["successes"] for r in mine), sum(r["episodes"] for r in mine))
        assert cells[2] == f"{rate.count}/{rate.total}"
        assert cells[3] == str(rate)
        assert float(cells[1] or 0) == mine[0]["weight"]


@pytest.mark.parametrize("name", ["camera-arm", "camera-arm-flow", "actions-arm"])
def test_tables_by_seed_are_what_was_measured(name):
    """In docs/benchmark.md: successes by training seed, and the rate over all of them."""
    from training.judge.evaluate import Rate

    results = json.loads((ROOT / f"bench/results/{name}.json").read_text())
    section = next(
        s
        for s in (ROOT / "docs/benchmark.md").read_text().split("\n## ")
        if f"(../bench/results/{name}.json)" in s
    )
    found = {}
    for line in re.findall(r"^\| `.+\|$", section, re.M):
        world, sampler, *by_seed, rate = (cell.strip(" `") for cell in line.strip("|").split("|"))
        found[world, sampler] = by_seed, rate
    measured, key = {}, "contract" if "contract" in results[0] else "world"
    for world, sampler in dict.fromkeys((r[key], r["sampler"]) for r in results):
        mine = [r for r in results if (r[key], r["sampler"]) == (world, sampler)]
        pooled = Rate(sum(r["successes"] for r in mine), sum(r["episodes"] for r in mine))
        measured[world, sampler] = [f"{r['successes']}/{r['episodes']}" for r in mine], str(pooled)
    assert found == measured
