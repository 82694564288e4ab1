"""An executor that another package adds, chosen by name; and ours."""

import os

import pytest
from qgf_tasks import where

from qgf_ros.errors import UsageError
from qgf_ros.executors import each

pytestmark = pytest.mark.xdist_group("plugins")


@pytest.mark.parametrize("workers", [1, 2])
def test_it_does_the_work_where_it_is_chosen(installed, monkeypatch, workers):
    monkeypatch.setenv("QGF_EXECUTOR", "threads")
    done = list(each(where, range(5), workers))
    assert [item for item, _, _ in done] == list(range(5))
    assert all(pid == os.getpid() and name.startswith("qgf_threads") for _, pid, name in done)


def test_one_that_is_not_there_is_refused_with_those_there_are(installed, monkeypatch):
    monkeypatch.setenv("QGF_EXECUTOR", "ray")
    with pytest.raises(UsageError, match="'ray' is not known; allowed: inline, processes, threads"):
        list(each(where, [1]))


def test_one_worker_is_this_process_and_several_are_others(monkeypatch):
    monkeypatch.delenv("QGF_EXECUTOR", raising=False)
    assert {pid for _, pid, _ in each(where, [1, 2], workers=1)} == {os.getpid()}
    several = list(each(where, [1, 2, 3], workers=2, ahead=1))
    assert [item for item, _, _ in several] == [1, 2, 3]
    assert os.getpid() not in {pid for _, pid, _ in several}
    assert list(each(where, [], workers=2)) == []


def test_progress_sees_every_result(monkeypatch):
    shown = []

    def progress(items, total, what):
        for item in items:
            shown.append((item, total, what))
            yield item

    assert list(each(abs, [-1, 2], progress=progress, what="counting")) == [1, 2]
    assert shown == [(1, 2, "counting"), (2, 2, "counting")]
