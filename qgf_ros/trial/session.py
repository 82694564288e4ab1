"""The course of a trial: one loop per phase, driven by the operator's words and the node's state.

The robot is enabled in one place, `_drive`, and whatever ends an episode disables it before anything
else happens. What is shown never depends on which beta runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from qgf_ros.control.supervisor import State
from qgf_ros.errors import QgfError, StorageError, UsageError
from qgf_ros.trial.link import Link, OperatorInput, Screen, View
from qgf_ros.trial.record import Episode, Outcome, Record
from qgf_ros.trial.trial_folder import TrialFolder

TICK = 0.05  # s, how soon a word or a change is noticed
SILENT = 1.0  # s without a status: nobody knows what the robot does
ENABLING = 1.0  # s, steady, in which the status must say what ~/enable answered
BRAKED = 3.0  # s after which a robot that still holds is asked why
SETTING = 5.0  # s for a beta to be in effect, and for every topic to be heard
SCENE = 120.0  # s for the service that puts the scene back
FASTEST = 100.0  # times real time, a simulation's clock; what goes further at once is a jump
LOOKS = 1.0  # s of the node's clock between two looks at it, beside that
MOVING = (State.RUN, State.HOLD)
Phase = Literal["busy", "waiting", "running", "asking"]
SOON = "the robot moves soon: hand on the stop"
QUIT = ("q quit",)
VERDICT = ("s success", "f failure")
CHANGED = "somebody else set beta or policy"
SAID: dict[str, Outcome] = {"success": "success", "failure": "failure", "abort": "aborted"}


class Quit(Exception):
    """The operator ends the trial here, or is gone."""


class Stopwatch:
    """Seconds of the node's clock, which may be set, go back, or begin anew with its simulation. What
    it jumped is no time that passed: it is left out, and `jumped` says that it did."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._seconds = 0.0
        self._last, self._looked = now(), time.monotonic()
        self.jumped = False

    def __call__(self) -> float:
        """Since it was made [s]."""
        now, looked = self._now(), time.monotonic()
        step = now - self._last
        if 0 <= step <= LOOKS + FASTEST * (looked - self._looked):
            self._seconds += step
        else:
            self.jumped = True
        self._last, self._looked = now, looked
        return self._seconds


class Session:
    """Runs what is left of a trial. `interrupted` says that a signal came."""

    def __init__(
        self,
        link: Link,
        operator_input: OperatorInput,
        screen: Screen,
        trial_folder: TrialFolder,
        record: Record,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.record = record
        self._link, self._operator_input, self._screen = link, operator_input, screen
        self._folder, self._interrupted = trial_folder, interrupted
        self._keys: list[str] = []
        self._words: list[str] = []
        self._phase: Phase = "busy"
        self._stopped: Stopwatch | None = None  # since the robot was disabled

    def run(self) -> bool:
        """True: the trial is over; False: the operator quit, and the same command goes on.

        Raises QgfError where the node, its policy or the disk does not let it go on.
        """
        try:
            while (following := self.record.next) is not None:
                self._episode(*following)
        except Quit:
            return False
        finally:
            self._link.say("over", 0)
        return True

    def _episode(self, block: int, beta: float) -> None:
        self._prepare(beta)
        said = self._wait_for_start(beta)
        if said == "undo":
            self._undo()
        if said != "start" or not self._scene_is_back():
            return
        number = self._number
        bag = self._folder.name(number)
        if not self._recording(bag, beta):
            return
        try:
            told = self._drive(beta)
        finally:
            self._link.end_bag()
        if told is None:
            return
        episode = Episode.judged(block=block, number=number, beta=beta, bag=bag, **told)
        self._keep(self.record.with_episode(episode))

    def _is_ours(self, view: View, beta: float) -> bool:
        """Whether the node runs what the episode is counted for."""
        return (view.policy_sha256, view.beta) == (self.record.design.policy_sha256, beta)

    @property
    def _number(self) -> int:
        return len(self.record.episodes) + 1

    def _keep(self, record: Record) -> None:
        self.record = record
        self._folder.keep(record)
        last = record.episodes[-1]
        helped = " (success with a hand)" if last.verdict != last.outcome else ""
        self._screen.note(f"episode {last.number}: {last.outcome}{helped}, by {last.by}")

    # Before the robot moves.

    def _prepare(self, beta: float) -> None:
        """Beta is in effect before anybody is asked to start."""
        began, line = time.monotonic(), "wait"
        until = began + SETTING
        while (view := self._look("busy", "STOPPING", line, QUIT)).state in MOVING or (
            self._stopped is not None and self._stopped() < self._link.slew
        ):  # else it begins at the last beta
            if time.monotonic() > began + BRAKED:  # it stands, and something is wrong
                line = f"wait: {self._reason(view)}"
            if view.enabled and time.monotonic() > until:
                raise UsageError(
                    "somebody else enabled the robot; disable it and repeat the command"
                )
            self._next_word()
        if view.policy_sha256 != self.record.design.policy_sha256:
            raise UsageError(
                f"the node runs the policy {view.policy_sha256[:12]} now, the trial is of "
                f"{self.record.design.policy_sha256[:12]}; load that one again"
            )
        self._link.set_beta(beta)
        until = time.monotonic() + SETTING
        while self._look("busy", "SETTING UP", SOON, QUIT).beta != beta:
            self._next_word()
            if time.monotonic() > until:
                raise QgfError(
                    f"the node took beta, and {SETTING:g} s later ~/status has another one; look "
                    "whether somebody else sets it"
                )

    def _wait_for_start(self, beta: float) -> str:
        """ "start" or "undo"; "" where the node is set otherwise meanwhile, to be prepared again."""
        self._forget()
        while True:
            view = self._link.view()
            undo = ("u last verdict again", *QUIT)
            if view.state is State.FAULT:
                line = f"{view.reason} {view.detail}: make the robot safe, then r"
                self._look("waiting", "FAULT", line, ("r reset", *undo))
            elif trouble := self._trouble(view):
                self._look("waiting", "NOT READY", trouble, undo)
            else:
                line = "put robot and scene back, then SPACE"
                self._look("waiting", "YOUR TURN", line, ("SPACE start", *undo))
            word = self._next_word()
            if word == "start":
                view = self._link.view()
                if not (trouble := self._trouble(view)):
                    return word if self._is_ours(view, beta) else self._changed()
                self._screen.note(f"not started: {trouble}")
            elif word == "reset" and view.state is State.FAULT:
                self._screen.note(self._link.reset() or "reset")
            elif word == "undo":
                return word

    def _changed(self) -> str:
        self._screen.note(f"not started: {CHANGED}; set up again")
        return ""

    def _scene_is_back(self) -> bool:
        """Asks the scene's service, if there is one, and waits until the node is ready again."""
        answer = self._link.reset_scene()
        until = time.monotonic() + SCENE
        while answer is not None and (told := answer()) != "":
            self._look("busy", "SCENE IS PUT BACK", "keep away", QUIT)
            self._next_word()
            if told or time.monotonic() > until:
                self._screen.note(
                    f"the scene was not put back: {told or f'no answer for {SCENE:g} s'}"
                )
                return False
        until = time.monotonic() + SETTING
        while (view := self._link.view()).state is not State.READY:
            self._look("busy", "SETTING UP", SOON, QUIT)
            self._next_word()
            if time.monotonic() > until:
                self._screen.note(f"not started: {self._reason(view)}")
                return False
        return True

    def _recording(self, bag: str, beta: float) -> bool:
        """Begins the bag; the robot does not move before every observed topic is in it."""
        if bag:
            self._link.begin_bag(self._folder.begin(bag))
        until = time.monotonic() + SETTING
        while bag and (unheard := self._link.unheard()):
            self._look("busy", "SETTING UP", SOON, QUIT)
            try:
                self._next_word()
            except Quit:
                self._link.end_bag()
                raise
            if time.monotonic() > until:
                self._link.end_bag()
                self._screen.note(f"not started: nothing heard on {', '.join(unheard)}")
                return False
        if not self._is_ours(self._link.view(), beta):
            self._link.end_bag()
            self._changed()
            return False
        return True

    # While it moves.

    def _drive(self, beta: float) -> dict[str, Any] | None:
        """One episode; the robot is disabled when this returns. None: it does not count."""
        before, verdict, by = self._link.view().holds, None, ""
        interventions: list[float] = []
        self._forget()
        try:
            self._link.beat()
            if refusal := self._link.enable(True):
                self._screen.note(f"not started: {refusal}")
                return None
            passed = Stopwatch(self._link.now)
            verdict, by = self._watch(beta, passed, interventions)
            seconds, holds = passed(), self._link.view().holds - before
        finally:
            self._stop()
        try:
            self._link.end_bag()
        except OSError as error:
            raise StorageError(
                f"the bag of episode {self._number} cannot be written to {self._folder.folder}: "
                f"{error.strerror or error}; the robot is disabled, and the episode does not count. Make "
                "room, and the same command goes on"
            ) from None
        if not self._is_ours(self._link.view(), beta):
            verdict, by = "aborted", CHANGED
        if verdict is None:
            verdict, by = self._ask(by, self._number, "q quit (discards)"), "operator"
        return {
            "verdict": verdict,
            "by": by,
            "interventions": len(interventions),
            "seconds": round(seconds, 3),
            "holds": holds,
            "to": round(interventions[0], 3) if interventions else None,
        }

    def _watch(
        self, beta: float, stopwatch: Stopwatch, interventions: list[float]
    ) -> tuple[Outcome | None, str]:
        """How it ended and who said so; without a verdict, why it is over. `interventions`: s from the
        begin of the bag, filled here."""
        enabled, design, asked = False, self.record.design, time.monotonic()
        while True:
            self._link.beat()
            view, passed = self._link.view(), stopwatch()
            enabled = enabled or view.enabled
            if view.taken_over and not interventions:
                interventions.append(self._link.bag_seconds())
            if not self._is_ours(view, beta):
                return "aborted", CHANGED
            if (judged := self._link.judged()) is not None:
                return judged, "topic"
            if self._link.began_anew():
                return None, "the scene began anew: how did it go until then?"
            if stopwatch.jumped:
                return None, "the clock jumped: how did it go until then?"
            if view.age > SILENT:
                return None, f"the node has said nothing for {SILENT:g} s"
            over = view.state is State.FAULT or not view.enabled
            if over and (enabled or time.monotonic() > asked + ENABLING):
                return None, f"the node stopped the robot: {view.state.name} {self._reason(view)}"
            if passed >= design.limit:
                at = design.at_limit
                return (None, "the time is up") if at == "ask" else (at, "limit")
            state, line = "ROBOT MOVES", "hand on the stop"
            if view.state is State.HOLD:
                state, line = "ROBOT HOLDS", f"and goes on by itself: {view.reason} {view.detail}"
            if interventions:
                line += f" (interventions: {len(interventions)}; no success any more)"
            keys = (*VERDICT, "i intervention", "a discard", *QUIT)
            self._look("running", state, line, keys, design.limit - passed)
            word = self._next_word()
            if word in SAID:
                return SAID[word], "operator"
            if word == "intervention":
                interventions.append(self._link.bag_seconds())

    def _stop(self) -> None:
        """Raises QgfError where the node does not answer; by then the guard has tried too."""
        try:
            self._link.enable(False)
            self._stopped = Stopwatch(self._link.now)
        except QgfError as error:
            raise QgfError(f"STOP THE ROBOT BY HAND: {error}") from None

    # After it.

    def _ask(self, why: str, number: int, leave: str) -> Outcome:
        self._forget()
        while True:
            view = self._link.view()
            reset = ("r reset",) if view.state is State.FAULT else ()
            keys = (*VERDICT, "a discard", *reset, leave)
            self._look("asking", "HOW DID IT GO?", why, keys, number=number)
            word = self._next_word()
            if word in SAID:
                return SAID[word]
            if word == "reset" and view.state is State.FAULT:
                self._screen.note(self._link.reset() or "reset")

    def _undo(self) -> None:
        """The verdict of the last episode once more."""
        if not self.record.episodes or self.record.episodes[-1].outcome == "aborted":
            self._screen.note("there is no verdict to change")
            return
        number = self.record.episodes[-1].number
        said = self._ask(f"episode {number}, once more", number, "q quit (leaves it as it is)")
        self._keep(self.record.with_last(said))

    # All along.

    def _look(
        self,
        phase: Phase,
        state: str,
        line: str,
        keys: Sequence[str],
        seconds: float = 0.0,
        number: int = 0,
    ) -> View:
        """Shows where the trial is; the node's newest status. number: of the episode that it is
        about; 0: the next one."""
        if phase != self._phase:
            self._phase = phase
            self._link.say(phase, number or self._number)
        self._screen.show(state, line, keys, seconds)
        return self._link.view()

    def _next_word(self) -> str:
        """The next word within TICK, else "". Keys come first, whatever is on the operator's topic.
        Raises Quit."""
        waiting = self._keys or self._words
        self._keys += self._operator_input.pressed(0.0 if waiting else TICK)
        self._words += self._link.words()
        if self._interrupted() or self._operator_input.lost:
            raise Quit
        said = self._keys or self._words
        word = said.pop(0) if said else ""
        if word == "quit":
            raise Quit
        return word

    def _forget(self) -> None:
        """A word that was said before it was asked for is no answer."""
        self._operator_input.forget()
        self._link.words()
        self._keys.clear()
        self._words.clear()

    def _trouble(self, view: View) -> str:
        """Why no episode may begin, or ""."""
        if view.state is State.READY and view.age <= SILENT:
            return self._link.trouble()
        return self._reason(view)

    def _reason(self, view: View) -> str:
        if view.age > SILENT:
            return f"no word from the node for {view.age:.0f} s"
        return f"{view.reason} {view.detail}".strip() or view.state.name
