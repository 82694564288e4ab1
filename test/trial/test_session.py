"""The course of a trial against a robot that obeys, or does not.

Pinned: a robot that stays enabled after the verdict, after an error, or when the operator is gone; a
screen that tells which beta runs; an episode that counts although it had another beta.
"""

import errno
import math
import os
from collections import deque

import pytest

from qgf_ros.control.supervisor import State
from qgf_ros.errors import QgfError, StorageError, UsageError
from qgf_ros.trial import session as module
from qgf_ros.trial.link import View
from qgf_ros.trial.record import Design, Record
from qgf_ros.trial.session import Session
from qgf_ros.trial.trial_folder import ROOM, TrialFolder

INF = math.inf


class Robot:
    """Link, keys and screen at once: a node that obeys, and an operator with a script.

    script: (phase, word or function of this) pairs; each is said when the trial is in that phase.
    """

    slew = 0.0
    lost = signal = False

    def __init__(self, script=(), default=True):
        self.script, self.default = deque(script), default
        self.state, self.enabled, self.beta, self.reason = State.READY, False, 9.0, ""
        self.sha, self.age, self.holds, self.time = "abc", 0.0, 0, 0.0
        self.phase, self.shown, self.notes, self.said = "", [], [], []
        self.log = []  # what was asked of the node
        self.verdict = None
        self.refuses = self.is_wrong = ""
        self.takes_beta, self.anew = True, False

    # The node.

    def view(self):
        return View(
            self.state, self.enabled, self.beta, self.sha, self.reason, "", self.age, self.holds
        )

    def trouble(self):
        return self.is_wrong

    def now(self):
        return self.time

    def beat(self):
        self.log.append(("beat", None))

    def set_beta(self, beta):
        assert not self.enabled, "beta is set while the robot stands"
        self.log.append(("beta", beta))
        self.beta = beta if self.takes_beta else self.beta

    def enable(self, on):
        self.log.append(("enable", on))
        if on and self.refuses:
            return self.refuses
        if self.state is not State.FAULT:
            self.state = State.RUN if on else State.READY
        self.enabled = on
        self.verdict = None
        return ""

    def reset(self):
        self.log.append(("reset", None))
        self.state, self.reason = State.READY, ""
        return ""

    def reset_scene(self):
        return None

    def words(self):
        return []

    def judged(self):
        return self.verdict

    def say(self, phase, episode):
        self.phase = phase
        self.said.append(f"{phase} {episode}")

    def begin_bag(self, path):
        path.mkdir()
        self.bag, self.anew = path, False

    def unheard(self):
        return []

    def bag_seconds(self):
        return 1.25

    def began_anew(self):
        return self.anew

    def end_bag(self):
        self.log.append(("bag closed", None))

    # The operator.

    def pressed(self, timeout):
        self.time += timeout
        # Where steady time is waited for, this one flies.
        assert self.time < 100_000, f"nobody says anything in {self.phase}: {self.shown[-1:]}"
        if self.script and self.script[0][0] == self.phase:
            word = self.script.popleft()[1]
            return [word] if isinstance(word, str) else word(self) or []
        if self.script or not self.default:
            return []
        return {"waiting": ["start"], "running": ["success"]}.get(self.phase, [])

    def forget(self):
        pass

    def show(self, state, line, keys, seconds):
        self.shown.append((state, line, keys))

    def note(self, text):
        self.notes.append(text)

    def fault(self):
        self.state, self.enabled, self.reason = State.FAULT, False, "ESTOP"
        self.holds += 1

    @property
    def moved(self):
        return ("enable", True) in self.log


def trial(tmp_path, robot, betas=(INF, 0.11), episodes=2, seed=1, **rules):
    record = Record(Design("/qgf", "abc", betas, episodes, seed, **rules))
    trial_folder = TrialFolder(tmp_path)
    return Session(robot, robot, robot, trial_folder, record, lambda: robot.signal)


def test_each_episode_runs_with_its_beta_and_ends_with_the_robot_disabled(tmp_path):
    robot = Robot()
    session = trial(tmp_path, robot)
    assert session.run()
    asked = [entry for entry in robot.log if entry[0] in ("beta", "enable")]
    betas = [e.beta for e in session.record.episodes]
    assert len(betas) == 4
    assert asked == [
        part for b in betas for part in (("beta", b), ("enable", True), ("enable", False))
    ]


def test_the_operator_sees_the_same_whichever_beta_runs(tmp_path):
    seen = []
    for seed in range(4):
        robot = Robot()
        session = trial(tmp_path / str(seed), robot, seed=seed)
        (tmp_path / str(seed)).mkdir()
        session.run()
        seen.append((robot.shown, robot.notes, [e.beta for e in session.record.episodes]))
    assert len({str(order) for *_, order in seen}) > 1
    assert all(shown == seen[0][0] and notes == seen[0][1] for shown, notes, _ in seen)
    assert not any(b in str(seen[0][:2]) for b in ("0.11", "inf"))


@pytest.mark.parametrize("way", ["quit", "lost", "signal", "error"])
def test_whatever_ends_it_while_the_robot_moves_disables_it_first(tmp_path, way):
    def go(robot):
        assert robot.enabled
        if way == "error":
            raise OSError("the disk")
        robot.lost, robot.signal = way == "lost", way == "signal"
        return ["quit"] if way == "quit" else []

    robot = Robot([("waiting", "start"), ("running", go)])
    session = trial(tmp_path, robot)
    if way == "error":
        with pytest.raises(OSError, match="the disk"):
            session.run()
    else:
        assert not session.run()
    assert not robot.enabled and robot.log[-2:] == [("enable", False), ("bag closed", None)]
    assert session.record.episodes == () and not (tmp_path / "trial.yaml").exists()


def test_a_fault_ends_the_episode_and_is_reset_by_the_operator_alone(tmp_path):
    def untouched(robot):
        assert ("reset", None) not in robot.log

    robot = Robot([
        ("waiting", "start"),
        ("running", lambda r: r.fault()),
        ("asking", "start"),  # means nothing here
        ("asking", "failure"),
        ("waiting", "start"),  # refused: it is in FAULT
        ("waiting", untouched), ("waiting", untouched), ("waiting", "reset"),
    ])  # fmt: skip
    session = trial(tmp_path, robot)
    assert session.run()
    first = session.record.episodes[0]
    assert (first.outcome, first.by, first.holds) == ("failure", "operator", 1)
    assert any(note.startswith("not started: ESTOP") for note in robot.notes)
    assert robot.log.count(("reset", None)) == 1
    assert any(state == "FAULT" and "ESTOP" in line for state, line, _ in robot.shown)


def test_a_hold_is_shown_counted_and_ends_nothing(tmp_path):
    def hold(robot):
        robot.state, robot.reason, robot.holds = State.HOLD, "STATE_STALE:joints", 1

    def recovers(robot):
        robot.state, robot.reason = State.RUN, ""

    robot = Robot([("waiting", "start"), ("running", hold), ("running", recovers)])
    session = trial(tmp_path, robot)
    assert session.run() and session.record.episodes[0].holds == 1
    assert session.record.episodes[0].outcome == "success"
    assert any(s == "ROBOT HOLDS" and "STATE_STALE:joints" in line for s, line, _ in robot.shown)


@pytest.mark.parametrize("at_limit, outcome", [("failure", "failure"), ("success", "success")])
def test_the_time_is_limited(tmp_path, at_limit, outcome):
    robot = Robot([("waiting", "start"), ("busy", "")] * 4, default=False)
    session = trial(tmp_path, robot, limit=3.0, at_limit=at_limit)
    robot.script = deque([("waiting", "start")] * 4)
    robot.default = False
    assert session.run()
    assert {(e.outcome, e.by) for e in session.record.episodes} == {(outcome, "limit")}
    assert all(3.0 <= e.seconds < 3.2 for e in session.record.episodes)


def test_the_limit_may_ask(tmp_path):
    robot = Robot([("waiting", "start"), ("asking", "success")] * 4)
    session = trial(tmp_path, robot, limit=3.0, at_limit="ask")
    assert session.run() and {e.by for e in session.record.episodes} == {"operator"}


def test_the_outcome_topic_may_judge(tmp_path):
    def judge(robot):
        robot.verdict = "failure"

    robot = Robot([("waiting", "start"), ("running", judge)])
    session = trial(tmp_path, robot)
    assert session.run()
    assert [(e.outcome, e.by) for e in session.record.episodes[:2]] == [
        ("failure", "topic"),
        ("success", "operator"),
    ]


def test_an_episode_with_another_beta_does_not_count(tmp_path):
    def meddle(robot):
        robot.beta = 0.2

    robot = Robot([("waiting", "start"), ("running", meddle)])
    session = trial(tmp_path, robot)
    assert session.run()
    assert [e.outcome for e in session.record.episodes] == ["aborted"] + ["success"] * 4
    assert session.record.episodes[0].by == "somebody else set beta or policy"


def test_an_episode_with_another_policy_does_not_count_whoever_judges(tmp_path):
    def swap(robot):
        robot.sha, robot.verdict = "def", "success"

    robot = Robot([("waiting", "start"), ("running", swap)])
    session = trial(tmp_path, robot)
    with pytest.raises(UsageError, match="the node runs the policy def now"):
        session.run()
    assert [e.outcome for e in session.record.episodes] == ["aborted"]


@pytest.mark.parametrize("change", [("sha", "def"), ("beta", 0.2)])
def test_nothing_starts_where_the_node_was_set_otherwise_meanwhile(tmp_path, change):
    def meddle(robot):
        setattr(robot, *change)
        return ["start"]

    robot = Robot([("waiting", meddle), ("waiting", "quit")])
    session = trial(tmp_path, robot)
    if change[0] == "sha":
        with pytest.raises(UsageError, match="the node runs the policy def now"):
            session.run()
    else:
        assert not session.run()
        assert robot.beta != 0.2, "it is set again"
    assert not robot.moved


def test_nothing_moves_before_beta_is_in_effect(tmp_path, monkeypatch):
    monkeypatch.setattr("qgf_ros.trial.session.SETTING", 0.05)
    robot = Robot()
    robot.takes_beta = False
    with pytest.raises(QgfError, match="another one"):
        trial(tmp_path, robot).run()
    assert not robot.moved


def test_another_policy_ends_the_trial(tmp_path):
    robot = Robot()
    robot.sha = "def"
    with pytest.raises(UsageError, match="the node runs the policy def now, the trial is of abc"):
        trial(tmp_path, robot).run()
    assert not robot.moved


def test_an_enable_that_is_refused_is_no_episode(tmp_path):
    def refuse(robot):
        robot.refuses = "in WAITING: joints are stale"
        return ["start"]

    def relent(robot):
        robot.refuses = ""
        return ["start"]

    robot = Robot([("waiting", refuse), ("waiting", relent)])
    session = trial(tmp_path, robot)
    assert session.run() and len(session.record.episodes) == 4
    assert robot.notes[0] == "not started: in WAITING: joints are stale"


def test_a_robot_that_is_not_ready_is_not_started(tmp_path):
    def waiting(robot):
        robot.state, robot.reason = State.WAITING, "STATE_MISSING:joints"
        return ["start"]

    def ready(robot):
        assert not robot.moved
        robot.state, robot.reason = State.READY, ""

    robot = Robot([("waiting", waiting), ("waiting", ready)])
    assert trial(tmp_path, robot).run()
    assert robot.notes[0] == "not started: STATE_MISSING:joints"


def test_a_trial_that_has_another_beside_it_is_not_started(tmp_path):
    def another(robot):
        robot.is_wrong = "another trial is there"
        return ["start"]

    def gone(robot):
        assert not robot.moved
        robot.is_wrong = ""

    robot = Robot([("waiting", another), ("waiting", gone)])
    assert trial(tmp_path, robot).run()
    assert robot.notes[0] == "not started: another trial is there"
    assert ("NOT READY", "another trial is there") in [shown[:2] for shown in robot.shown]


def test_a_silent_node_ends_the_episode(tmp_path):
    def silent(robot):
        robot.age = 5.0

    def back(robot):
        robot.age = 0.0
        return ["failure"]

    robot = Robot([("waiting", "start"), ("running", silent), ("asking", back)])
    session = trial(tmp_path, robot)
    assert session.run() and session.record.episodes[0].outcome == "failure"
    assert any("said nothing" in line for _, line, _ in robot.shown)


def test_a_scene_that_begins_anew_ends_the_episode(tmp_path):
    def again(robot):
        robot.anew = True

    robot = Robot([("waiting", "start"), ("running", again), ("asking", "failure")])
    session = trial(tmp_path, robot)
    assert session.run() and session.record.episodes[0].outcome == "failure"
    assert any("began anew" in line for _, line, _ in robot.shown)


def test_without_its_guard_nothing_is_enabled(tmp_path):
    robot = Robot()

    def gone():
        raise QgfError("the guard has ended")

    robot.beat = gone
    with pytest.raises(QgfError, match="guard"):
        trial(tmp_path, robot).run()
    assert not robot.moved


def test_a_node_that_does_not_answer_the_stop_is_said_loudly(tmp_path):
    robot = Robot()
    enable = robot.enable

    def deaf(on):
        if not on:
            raise QgfError("/qgf/enable has not answered for 2 s")
        return enable(on)

    robot.enable = deaf
    with pytest.raises(QgfError, match="STOP THE ROBOT BY HAND: /qgf/enable has not answered"):
        trial(tmp_path, robot).run()


def test_a_helped_success_is_a_failure_up_to_the_first_hand(tmp_path):
    def takeover(robot):
        robot.state, robot.enabled, robot.reason = State.HOLD, False, "TAKEOVER"

    def released(robot):
        robot.state, robot.reason = State.READY, ""
        return ["success"]

    robot = Robot([
        ("waiting", "start"), ("running", "intervention"), ("running", "intervention"),
        ("running", "success"),
        ("waiting", "start"), ("running", takeover), ("asking", released),
    ])  # fmt: skip
    session = trial(tmp_path, robot)
    assert session.run()
    first, second, third, _ = session.record.episodes
    assert (first.outcome, first.verdict, first.interventions) == ("failure", "success", 2)
    assert (second.outcome, second.interventions) == ("failure", 1)
    assert third.outcome == "success"
    labels = TrialFolder(tmp_path)._read()
    assert labels["episode_0001"] == {"outcome": "failure", "to": 1.25}
    assert labels["episode_0003"] == "success"


def test_the_last_verdict_can_be_taken_back(tmp_path):
    robot = Robot([
        ("waiting", "undo"),  # there is none
        ("waiting", "start"), ("running", "success"),
        ("waiting", "undo"), ("asking", "failure"),
    ])  # fmt: skip
    session = trial(tmp_path, robot)
    assert session.run()
    assert [e.outcome for e in session.record.episodes] == ["failure"] + ["success"] * 3
    assert robot.notes[0] == "there is no verdict to change"
    assert [said for said in robot.said if said.startswith("asking")] == ["asking 1"]
    assert TrialFolder(tmp_path)._read()["episode_0001"] == "failure"


def test_a_discarded_episode_leaves_no_bag_and_is_repeated(tmp_path):
    robot = Robot([("waiting", "start"), ("running", "abort")])
    session = trial(tmp_path, robot)
    assert session.run()
    assert [e.outcome for e in session.record.episodes] == ["aborted"] + ["success"] * 4
    bags = sorted(p.name for p in (tmp_path / "bags").iterdir() if p.is_dir())
    assert bags == [f"episode_{n:04d}" for n in range(2, 6)]


# 154: clocks and words of no use


def jumps(at, by):
    """From the operator's `at`-th look at a robot that moves, the node's clock is `by` s further."""
    looks = []

    def look(robot):
        looks.append(robot.time)
        if len(looks) == at:
            robot.time += by
        return []

    return [("running", look)] * at


@pytest.mark.parametrize("by", [3600.0, -3600.0, 30.0])
def test_fault_154_a_clock_that_jumps_judges_no_episode(tmp_path, by):
    """An hour ahead was a failure by the limit, for beta that had a tenth of a second."""
    robot = Robot([*jumps(3, by), ("asking", "success")], default=False)
    robot.script.appendleft(("waiting", "start"))
    robot.script.append(("waiting", "quit"))
    session = trial(tmp_path, robot, limit=20.0)
    assert not session.run()
    (episode,) = session.record.episodes
    assert (episode.outcome, episode.by) == ("success", "operator")
    assert 0 <= episode.seconds < 1 and not robot.enabled


def test_fault_154_a_clock_that_begins_anew_between_episodes_keeps_nobody_waiting(tmp_path):
    """A simulation that is started again: the time until beta may change was waited for once more."""
    robot = Robot()
    robot.slew = 0.5
    robot.time = 5000.0
    end_bag = robot.end_bag

    def restarted():
        end_bag()
        if not robot.enabled:
            robot.time = 10.0

    robot.end_bag = restarted
    assert trial(tmp_path, robot, episodes=1).run()
    assert robot.time < 60


@pytest.mark.parametrize("phase", ["waiting", "running", "asking"])
def test_fault_154_keys_come_before_all_that_is_said_on_the_topic(tmp_path, phase):
    """A storm of words that mean nothing there: it filled the queue that the keys were behind."""
    script = [("waiting", "start"), ("running", lambda r: setattr(r, "age", 2.0))]
    robot = Robot(script[: ("waiting", "running", "asking").index(phase)], default=False)
    storm, scripted, looks = iter(range(1000)), robot.pressed, []

    def pressed(timeout):
        looks.append(robot.phase)
        return ["quit"] if looks.count(phase) == 3 else scripted(timeout)

    robot.pressed = pressed
    robot.words = lambda: ["undo" if next(storm) else ""] * 3
    assert not trial(tmp_path, robot).run()
    assert not robot.enabled


def test_fault_182_a_bag_that_finds_no_room_is_named_and_the_episode_does_not_count(tmp_path):
    """The last line said "cannot read or write a file", of which nobody knew what had become."""
    robot = Robot()
    heard = [True]

    def full():  # once: after that there is no bag to be closed
        if robot.moved and not robot.enabled and heard:
            heard.clear()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    robot.end_bag = full
    session = trial(tmp_path, robot)
    with pytest.raises(StorageError) as info:
        session.run()
    assert info.value.code == 7 and not robot.enabled and not session.record.episodes
    for part in ("episode 1", str(tmp_path), "No space left", "disabled", "does not count"):
        assert part in str(info.value), part


def test_fault_182_nobody_drives_for_what_the_disk_will_not_hold(tmp_path, monkeypatch):
    statvfs = os.statvfs

    def nearly_full(path):
        found = list(statvfs(path))
        found[4] = ROOM // found[1] - 1  # f_bavail, in blocks of f_frsize
        return os.statvfs_result(found)

    robot = Robot()
    monkeypatch.setattr(os, "statvfs", nearly_full)
    with pytest.raises(StorageError, match="has room for") as info:
        trial(tmp_path, robot).run()
    assert info.value.code == 7
    assert ("enable", True) not in robot.log, "the robot never moved"
    monkeypatch.undo()
    assert trial(tmp_path, robot).run(), "and with room it goes on"


def test_fault_183_a_robot_that_goes_on_holding_says_why_the_trial_waits(tmp_path, monkeypatch):
    """After a jump of the clock the node held for good, and the screen said "wait" and nothing else."""
    monkeypatch.setattr(module, "BRAKED", 0.0, raising=False)
    robot = Robot([("waiting", "start"), ("running", "success")], default=False)
    session = trial(tmp_path, robot)
    enable, looks = robot.enable, []

    def held(on):
        answer = enable(on)
        if not on:
            robot.state, robot.reason = State.HOLD, "STATE_STALE:joint_states"
        return answer

    def show(state, line, keys, seconds):
        if session.record.episodes and state == "STOPPING":
            looks.append(line)
            robot.signal = "STATE_STALE:joint_states" in line or len(looks) > 100

    robot.enable, robot.show = held, show
    assert not session.run(), "ended by a signal"
    assert looks[0] == "wait" and "STATE_STALE:joint_states" in looks[-1]
