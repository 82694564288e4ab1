"""Label files: what they say, what they refuse, and what alignment makes of them."""

import json
import os
import shutil
import stat

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from qgf_make import SCALE, START, contract, velocity_dict

from qgf_ros.errors import StorageError, UsageError
from training.pipeline.align import align
from training.pipeline.label_verbs import DataLabel
from training.pipeline.labels import (
    OUTCOMES,
    Label,
    Labels,
    load_labels,
    parse_label,
    read_labels,
    short_names,
)
from training.pipeline.report import Report
from training.pipeline.streams import Recording, Stream

MS = 1_000_000
T = 50 * MS
TOPIC = {"topic": "s", "type": "std_msgs/Bool", "fields": ["data"]}


def own(**outcome):
    return contract(
        velocity_dict() | {"outcome": {"objective": "time_to_success", "success": TOPIC} | outcome}
    )


def stream(stamp, values):
    stamp, values = np.asarray(stamp, np.int64), np.asarray(values, float)
    return Stream(stamp, stamp, values if values.ndim == 2 else values[:, None])


def every(step, count, phase=0):
    return START + phase + step * np.arange(count, dtype=np.int64)


def recording(success=None, one_episode=True, starts=()):
    """40 commands; the state says how many ms have gone by."""
    state = every(10 * MS, 230)
    at = every(T, 40)
    told = [] if success is None else [START + 30 * T - MS]
    return Recording(
        "bag",
        {
            "joints": stream(state, np.repeat((state - START)[:, None] / MS, 4, 1)),
            "goal": stream(state, np.zeros(230)),
            "arm": stream(at, np.stack([np.arange(40)] * 2, 1)),
            "success": stream(told, np.full((len(told), 1), bool(success))),
            "episode_start": stream(starts, np.empty((len(starts), 0))),
        },
        one_episode=one_episode,
    )


def run(rec, labels=None, spec=None):
    report = Report()
    return align(rec, spec or own(), report, labels), report


# What a label does.


@pytest.mark.parametrize("told", [None, True, False])
@pytest.mark.parametrize("outcome,won", [("success", True), ("failure", False), ("unknown", None)])
def test_label_counts_before_the_topic(told, outcome, won):
    (episode,), _ = run(recording(told), {"": Label(outcome)})
    assert episode.success is won and episode.terminal == (won is not None)
    assert len(episode) == (40 if told is None else 30), "how is the label's; when, the topic's"
    assert episode.reward[-1] == float(won is True)


def test_label_counts_before_assume_success():
    spec = contract()  # assume_success
    (episode,), _ = run(recording(), {"": Label("failure")}, spec)
    assert episode.success is False and episode.terminal
    (episode,), _ = run(recording(), {"": Label("unknown")}, spec)
    assert episode.success is None and not episode.terminal


def test_excluded_episodes_are_dropped_and_counted():
    episodes, report = run(recording(True), {"": Label("exclude")})
    assert episodes == [] and report.dropped["episode excluded by its label"] == 1
    assert report.episodes == report.ticks == 0


def test_trim_keeps_what_lies_between():
    (episode,), _ = run(recording(), {"": Label("success", 0.5, 1.5)})
    assert episode.action[:, 0].tolist() == list(range(10, 30)) and episode.terminal
    assert episode.obs[0, 0] == 500, "what was seen before the cut is known at it"


def test_trim_alone_leaves_the_outcome_to_the_topic():
    (episode,), _ = run(recording(True), {"": Label(begin=0.5)})
    assert episode.action[:, 0].tolist() == list(range(10, 30)) and episode.success is True
    (episode,), _ = run(recording(True), {"": Label(end=1.0)})
    assert len(episode) == 20 and episode.success is None and not episode.terminal
    assert episode.obs[-1, 0] == 1000, (
        "the state after the last action is known: it is bootstrapped"
    )


def test_trim_to_nothing_is_no_episode():
    episodes, report = run(recording(), {"": Label("success", 100.0)})
    assert episodes == [] and report.dropped["episode without commands or observations"] == 1


def test_labels_are_of_their_episode():
    rec = recording(one_episode=False, starts=[START, START + 20 * T])
    labels = {"": Label("unknown"), "#1": Label("failure")}
    first, second = run(rec, labels)[0]
    assert (first.name, first.success) == ("bag#0", None)
    assert (second.name, second.success, second.terminal) == ("bag#1", False, True)


def test_label_of_an_episode_that_there_is_not_is_refused():
    rec = recording(one_episode=False, starts=[START, START + 20 * T])
    with pytest.raises(UsageError, match="bag has 2 episodes, counted from #0; labelled is #2"):
        run(rec, {"#2": Label("failure")})


# The file.

LABELS = st.builds(
    Label,
    st.sampled_from(OUTCOMES),
    st.floats(0, 100, allow_nan=False),
    st.one_of(st.just(float("inf")), st.floats(101, 1e6)),
)


@settings(max_examples=50 * SCALE, deadline=None)
@given(entries=st.dictionaries(st.text(min_size=1, max_size=20), LABELS, max_size=6))
def test_what_is_written_is_read(tmp_path_factory, entries):
    path = tmp_path_factory.mktemp("labels") / "labels.yaml"
    Labels(path, entries).write()
    assert read_labels(path).entries == entries
    assert [p.name for p in path.parent.iterdir()] == ["labels.yaml"], "nothing is left behind"


@pytest.mark.parametrize(
    "text,part",
    [
        ("[]", "keys version and episodes"),
        ("version: 1", "keys version and episodes"),
        ("{version: 2, episodes: {}}", "reads version 1"),
        ("{version: true, episodes: {}}", "reads version 1"),
        ("{version: 1, episodes: [a]}", "names with a label"),
        ("{version: 1, episodes: {1: success}}", "quote what is no text"),
        ("{version: 1, episodes: {a: won}}", "'won'; allowed: success, failure, unknown, exclude"),
        ("{version: 1, episodes: {a: true}}", "'True'; allowed"),
        ("{version: 1, episodes: {a: [success]}}", "allowed: success"),
        ("{version: 1, episodes: {a: {}}}", "at least one"),
        ("{version: 1, episodes: {a: {outcome: success, till: 1}}}", "allowed: outcome, from, to"),
        ("{version: 1, episodes: {a: {from: 2, to: 1}}}", "from before to"),
        ("{version: 1, episodes: {a: {from: -1}}}", "from 0 on"),
        ("{version: 1, episodes: {a: {from: .nan}}}", "from 0 on"),
        ("{version: 1, episodes: {a: {to: soon}}}", "must be seconds"),
        ("{version: 1, episodes: {a: success, a: failure}}", "there twice"),
        ("a: [", "not valid YAML"),
    ],
)
def test_broken_file_is_refused_and_named(tmp_path, text, part):
    (tmp_path / "labels.yaml").write_text(text)
    with pytest.raises(UsageError) as caught:
        load_labels(tmp_path)
    assert "labels.yaml" in str(caught.value) and part in str(caught.value)


@settings(max_examples=100 * SCALE, deadline=None)
@given(
    value=st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["outcome", "from", "to", "x"]), inner),
        max_leaves=5,
    )
)  # fmt: skip
def test_any_value_is_a_label_or_a_usage_error(value):
    try:
        assert isinstance(parse_label(value, "here"), Label)
    except UsageError as error:
        assert str(error).startswith("here")


def test_no_file_is_no_labels_but_one_that_the_contract_names_must_be_there(tmp_path):
    assert load_labels(tmp_path, own()) is None
    with pytest.raises(UsageError, match="mine.yaml"):
        load_labels(tmp_path, own(labels="mine.yaml"))
    Labels(tmp_path / "mine.yaml", {"a": Label("success")}).write()
    assert load_labels(tmp_path, own(labels="mine.yaml")).entries == {"a": Label("success")}


@pytest.mark.parametrize("kind", ["link to nowhere", "folder", "pipe"])
def test_fault_112_a_label_file_that_cannot_be_read_is_not_no_labels(tmp_path, kind):
    """Labels on a disk that is not there: failures would be trained on as successes."""
    file = tmp_path / "labels.yaml"
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to(tmp_path / "unmounted" / "labels.yaml")
    with pytest.raises(UsageError, match="labels.yaml"):
        load_labels(tmp_path)


def test_fault_112_label_file_that_leads_out_of_the_dataset_is_refused(tmp_path):
    (tmp_path / "secret.yaml").write_text("{version: 1, episodes: {}}")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "labels.yaml").symlink_to(tmp_path / "secret.yaml")
    with pytest.raises(UsageError, match="link out of the dataset"):
        load_labels(tmp_path / "data")


def test_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "labels.yaml"
    Labels(path, {"a": Label("success")}).write()
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        Labels(path, {"a": Label("failure")}).write()
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["labels.yaml"]


# Names.


def test_names_are_short_where_that_tells_them_apart(tmp_path):
    files = ["data/chunk-000/episode_000000.parquet", "data/chunk-000/episode_000001.parquet"]
    assert list(short_names(tmp_path, files).values()) == ["episode_000000", "episode_000001"]
    assert short_names(tmp_path, ["a/bag", "b/bag"]) == {"a/bag": "a/bag", "b/bag": "b/bag"}
    assert short_names(tmp_path, ["."]) == {".": tmp_path.name}
    assert short_names(tmp_path, ["run_1.2"]) == {"run_1.2": "run_1.2"}
    assert short_names(tmp_path, ["demo.npz#0"]) == {"demo.npz#0": "demo#0"}


def test_labels_find_their_recording_by_either_name(tmp_path):
    names = ["data/episode_0.parquet", "data/episode_1.parquet"]
    labels = Labels(tmp_path / "l", {"episode_0": Label("success"), names[1]: Label("failure")})
    assert labels.by_recording(tmp_path, names) == {
        names[0]: {"": Label("success")},
        names[1]: {"": Label("failure")},
    }


def test_a_recording_may_be_called_like_an_episode(tmp_path):
    labels = Labels(tmp_path / "l", {"run#1": Label("success"), "run#1#2": Label("failure")})
    found = labels.by_recording(tmp_path, ["run#1", "run"])
    assert found == {"run#1": {"": Label("success"), "#2": Label("failure")}}


def test_unknown_and_doubled_names_are_refused_by_name(tmp_path):
    stranger = Labels(tmp_path / "l", {"a": Label("success"), "c#1": Label("failure")})
    with pytest.raises(UsageError, match="names 'c#1', which .* does not have; it has a, b"):
        stranger.by_recording(tmp_path, ["a", "b"])
    twice = Labels(tmp_path / "l", {"d/e.parquet": Label("success"), "e": Label("failure")})
    with pytest.raises(UsageError, match="labelled twice"):
        twice.by_recording(tmp_path, ["d/e.parquet"])


# The verb.


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    pytest.importorskip("rosbags")
    from qgf_ros.bags.sources import contract_sources
    from training.pipeline.writers.bag import BagWriter

    tmp_path = tmp_path_factory.mktemp("recorded")
    spec = own(episode_start={"topic": "start", "type": "std_msgs/Header"})
    (tmp_path / "data").mkdir()
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(spec.to_dict()))
    for number in range(2):
        with BagWriter(tmp_path / "data" / f"bag_{number}", contract_sources(spec)) as bag:
            for k in range(40):
                at = START + k * T
                if k in (0, 20):
                    bag.write("episode_start", at - MS, at - MS, np.empty(0))
                bag.write("joints", at, at, np.full(4, k + 100.0 * number))
                bag.write("goal", at, at, np.zeros(1))
                bag.write("arm", at, at, np.zeros(2))
                if k == 10:
                    bag.write("success", at + MS, at + MS, np.ones(1))
    return tmp_path


@pytest.fixture
def bags(recorded, tmp_path):
    """Two bags of two episodes; the topic says of the first of each that it succeeded."""
    shutil.copytree(recorded, tmp_path, dirs_exist_ok=True)
    return tmp_path / "data"


def verb(data, *sets, **options):
    return DataLabel(data, set=sets, **options).run()


def outcomes(document):
    return {e["name"]: e["outcome"] for e in document["episodes"]}


def test_verb_lists_what_topics_and_labels_say(bags):
    robot = bags.parent / "robot.yaml"
    before = outcomes(verb(bags, contract=robot, list=True))
    assert before == {"bag_0#0": "success", "bag_0#1": "unknown", "bag_1#0": "success", "bag_1#1": "unknown"}  # fmt: skip
    assert not (bags / "labels.yaml").exists(), "--list writes nothing"
    document = verb(bags, "bag_0#0=failure", "bag_1=exclude", contract=robot)
    assert outcomes(document) == {"bag_0#0": "failure", "bag_0#1": "unknown", "bag_1#0": "exclude", "bag_1#1": "exclude"}  # fmt: skip
    assert document["changed"] and document["outcomes"]["exclude"] == 2
    json.dumps(document["episodes"])
    assert not verb(bags, contract=robot, list=True)["changed"]


def test_labels_reach_the_episodes_of_a_dataset(bags):
    from qgf_ros.spaces.contract import Contract
    from training.pipeline.readers.load import load_episodes

    verb(bags, "bag_0#1=failure", "bag_1=exclude")
    episodes, report = load_episodes(bags, Contract.load(bags.parent / "robot.yaml"))
    assert [(e.name, e.success) for e in episodes] == [("bag_0#0", True), ("bag_0#1", False)]
    assert report.dropped["episode excluded by its label"] == 2


def test_verb_edits_and_takes_away(bags):
    path = bags / "labels.yaml"
    csv = bags.parent / "labels.csv"
    csv.write_text("name,outcome,from,to\nbag_0#0,success,0.5,1.5\nbag_1,failure,,\n")
    verb(bags, from_file=csv)
    assert read_labels(path).entries == {"bag_0#0": Label("success", 0.5, 1.5), "bag_1": Label("failure")}  # fmt: skip
    verb(bags, "bag_0#0=unknown", "bag_1=none")
    assert read_labels(path).entries == {"bag_0#0": Label("unknown", 0.5, 1.5)}, "the trim is kept"
    assert stat.S_IMODE(path.stat().st_mode) & 0o444


@pytest.mark.parametrize(
    "text,part",
    [
        ("name\nbag_0\n", "needs name and outcome"),
        ("name,outcome,score\nbag_0,success,1\n", "needs name and outcome"),
        ("name,outcome\nbag_0\n", "line 2 must have"),
        ("name,outcome\nbag_0,success,1\n", "line 2 must have"),
        ("name,outcome\nbag_0,won\n", "line 2 is 'won'"),
        ("name,outcome,from\nbag_0,success,early\n", "not seconds"),
        ("name,outcome,from\nbag_0,success,nan\n", "from 0 on"),
        ("name,outcome\nbag_0,success\nbag_0,failure\n", "there twice"),
        ("name,outcome\nbag_9,success\n", "names 'bag_9'"),
        ("", "needs name and outcome"),
        ('name,outcome\n"bag_0,success\n', "cannot read"),
        ("name,outcome\nbag_0,\n", "at least one"),
    ],
)
def test_broken_list_is_refused_and_nothing_is_written(bags, text, part):
    (bags.parent / "labels.csv").write_text(text)
    with pytest.raises(UsageError) as caught:
        verb(bags, from_file=bags.parent / "labels.csv")
    assert part in str(caught.value), caught.value
    assert not (bags / "labels.yaml").exists()


@pytest.mark.parametrize("text", ["bag_0", "=success", "bag_0=", "bag_0=won", "bag_0=none", "bag_9=success"])  # fmt: skip
def test_broken_option_is_refused_and_nothing_is_written(bags, text):
    with pytest.raises(UsageError):
        verb(bags, text)
    assert not (bags / "labels.yaml").exists()


def test_number_of_an_episode_is_checked_where_a_contract_is_given(bags):
    with pytest.raises(UsageError, match="bag_0 has 2 episodes"):
        verb(bags, "bag_0#2=failure", contract=bags.parent / "robot.yaml")
    assert not (bags / "labels.yaml").exists()


def test_a_name_that_is_gone_can_be_taken_away(bags):
    Labels(bags / "labels.yaml", {"old": Label("success")}).write()
    with pytest.raises(UsageError, match="'old'"):
        verb(bags, list=True)
    verb(bags, "old=none")
    assert read_labels(bags / "labels.yaml").entries == {}


def test_interactive_asks_where_nobody_said_anything_and_keeps_every_answer(bags, monkeypatch):
    from rich.prompt import Prompt

    answers, asked = iter("fq"), []

    def ask(question, **_):
        asked.append(question)
        return next(answers)

    monkeypatch.setattr(Prompt, "ask", ask)
    robot = bags.parent / "robot.yaml"
    document = verb(bags, "bag_1#0=unknown", contract=robot, interactive=True)
    assert [q.split()[0] for q in asked] == ["bag_0#1", "bag_1#1"]
    assert document["changed"] and outcomes(document)["bag_0#1"] == "failure"
    assert read_labels(bags / "labels.yaml").entries == {
        "bag_1#0": Label("unknown"),
        "bag_0#1": Label("failure"),
    }


def test_interactive_without_an_answer_ends(bags, monkeypatch):
    from rich.prompt import Prompt

    def ask(*_, **__):
        raise EOFError

    monkeypatch.setattr(Prompt, "ask", ask)
    assert not verb(bags, interactive=True)["changed"]
    assert not (bags / "labels.yaml").exists()
