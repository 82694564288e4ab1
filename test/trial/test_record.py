"""What a trial remembers: the order of its episodes, what counts, and that it goes on.

Pinned: a trial that is resumed with another beta, another policy or another order.
"""

import math
from collections import Counter
from dataclasses import replace

import pytest

from qgf_ros.errors import UsageError
from qgf_ros.trial.record import Design, Episode, Record, check_betas, load, resumed
from qgf_ros.trial.result import decision, rows

INF = math.inf


def design(betas=(INF, 0.11, 0.05), episodes=4, seed=7):
    return Design("/qgf", "abc", betas, episodes, seed)


def played(record, succeeds, most=10_000):
    """The record after up to `most` more episodes; succeeds(beta, block) says how they go."""
    while (following := record.next) is not None and most > 0:
        block, beta = following
        verdict = "success" if succeeds(beta, block) else "failure"
        number = len(record.episodes) + 1
        fields = {"by": "operator", "seconds": 2.0, "holds": 0, "bag": f"episode_{number:04d}"}
        episode = Episode.judged(verdict, 0, number=number, block=block, beta=beta, **fields)
        record, most = record.with_episode(episode), most - 1
    return record


def test_every_block_has_each_beta_once_in_an_order_of_its_own():
    record = played(Record(design(episodes=30)), lambda beta, block: True)
    order = [e.beta for e in record.episodes]
    assert len(order) == 90 and set(map(len, map(set, zip(*[iter(order)] * 3)))) == {3}
    firsts = Counter(order[::3])
    assert min(firsts.values()) >= 4, "each comes first now and then"
    again = played(Record(design(episodes=30)), lambda beta, block: True)
    other = played(Record(design(episodes=30, seed=8)), lambda beta, block: True)
    assert [e.beta for e in again.episodes] == order != [e.beta for e in other.episodes]


def test_who_is_stopped_comes_no_more_and_with_one_left_it_is_over():
    record = played(Record(design(episodes=60)), lambda beta, block: beta != INF)
    stop = record.stops[INF]
    assert all(e.block <= stop.block for e in record.episodes if e.beta == INF)
    assert len(record.blocks) == 60 and record.left == (0.11, 0.05)
    alone = played(Record(design((INF, 0.11), 60)), lambda beta, block: beta != INF)
    assert alone.next is None and len(alone.blocks) < 30 and alone.left == (0.11,)
    assert decision(alone).startswith("Decided: beta 0.11 does better than inf (after ")


def test_an_aborted_episode_is_repeated_and_counted():
    record = played(Record(design()), lambda beta, block: True, most=4)
    following = record.next
    aborted = Episode.judged(
        "aborted", 0, number=5, block=following[0], beta=following[1], by="operator",
        seconds=1.0, holds=0,
    )  # fmt: skip
    record = record.with_episode(aborted)
    assert record.next == following
    record = played(record, lambda beta, block: True)
    assert len(record.episodes) == 13 and sum(r.aborted for r in rows(record)) == 1
    assert all(r.episodes == 4 for r in rows(record))


def test_a_success_that_needed_a_hand_is_none():
    fields = {"number": 1, "block": 1, "beta": INF, "by": "operator", "seconds": 3.0, "holds": 0}
    helped = Episode.judged("success", 2, to=1.5, bag="episode_0001", **fields)
    assert helped.outcome == "failure" and helped.verdict == "success" and helped.interventions == 2
    assert helped.label == {"outcome": "failure", "to": 1.5}
    assert Episode.judged("success", 0, **fields).outcome == "success"
    assert Episode.judged("aborted", 1, **fields).outcome == "aborted"


def test_who_ran_out_of_time_failed_and_for_training_was_cut():
    fields = {"number": 1, "block": 1, "beta": INF, "seconds": 3.0, "holds": 0}
    late = Episode.judged("failure", 0, by="limit", **fields)
    assert late.outcome == "failure" and late.label == "unknown"
    assert Episode.judged("failure", 0, by="operator", **fields).label == "failure"
    assert Episode.judged("success", 0, by="limit", **fields).label == "success"


def test_it_goes_on_from_the_file_wherever_it_was_left(tmp_path):
    whole = played(Record(design()), lambda beta, block: beta == 0.11)
    for most in range(13):
        part = played(Record(design()), lambda beta, block: beta == 0.11, most)
        part.save(tmp_path)
        asked = design(seed=99)  # its own seed counts
        again = resumed(tmp_path, asked)
        assert again == part
        assert played(again, lambda beta, block: beta == 0.11) == whole


def test_another_trial_in_the_folder_is_refused(tmp_path):
    Record(design()).save(tmp_path)
    with pytest.raises(UsageError, match=r"betas: inf 0.11 0.05 there, inf 0.2 asked"):
        resumed(tmp_path, design((INF, 0.2)))
    with pytest.raises(UsageError, match="policy_sha256: abc there, def asked"):
        resumed(tmp_path, Design("/qgf", "def", (INF, 0.11, 0.05), 4, 7))
    with pytest.raises(UsageError, match="episodes: 4 there, 5 asked"):
        resumed(tmp_path, design(episodes=5))
    with pytest.raises(
        UsageError, match="limit: 60.0 there, 30.0 asked; verdict: key there, topic"
    ):
        resumed(tmp_path, replace(design(), limit=30.0, verdict="topic"))


@pytest.mark.parametrize("name", ["bags", "unfinished", "contract.yaml"])
def test_a_folder_of_something_else_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UsageError, match=f"has {name} and no trial.yaml"):
        resumed(tmp_path, design())


@pytest.mark.parametrize(
    "change",
    [("version: 1", "version: 2"), (".inf\n", "0.3\n"), ("episodes:", "episode:"), ("seed: 7", "seed: x")],
)  # fmt: skip
def test_a_file_that_is_none_of_ours_is_refused(tmp_path, change):
    played(Record(design()), lambda beta, block: True, 2).save(tmp_path)
    file = tmp_path / "trial.yaml"
    assert change[0] in file.read_text()
    file.write_text(file.read_text().replace(*change, 1))
    with pytest.raises(UsageError, match=r"trial\.yaml"):
        load(tmp_path)


def test_betas_that_are_no_trial_are_refused():
    check_betas((INF, 0.11), 0.014, (0.057, 0.11, 0.23))
    with pytest.raises(UsageError, match=r"0\.01 is below the policy's floor of 0\.014"):
        check_betas((INF, 0.01), 0.014, (0.057, 0.11, 0.23))
    for betas in ((0.11,), (0.11, 0.11), ()):
        with pytest.raises(UsageError, match="at least two"):
            check_betas(betas, 0.014, (0.057,))


def test_the_last_verdict_can_be_said_again():
    record = played(Record(design((INF, 0.11))), lambda beta, block: True, 3)
    again = record.with_last("failure")
    assert again.episodes[-1].outcome == "failure" and again.next == record.next
    assert again.with_last("success") == record
    dropped = record.with_last("aborted")
    assert dropped.next == (record.episodes[-1].block, record.episodes[-1].beta)


def test_undecided_and_unfinished_are_said():
    record = played(Record(design((INF, 0.11))), lambda beta, block: True)
    assert decision(record) == "Undecided: 4 episodes of each do not tell beta inf and 0.11 apart."
    part = played(Record(design((INF, 0.11))), lambda beta, block: True, 3)
    assert decision(part).startswith("Unfinished: 1 of 4 episodes of each are done")
