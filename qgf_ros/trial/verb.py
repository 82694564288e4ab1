"""`qgf trial`."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import random
import shlex
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from qgf_ros.cli import Options
from qgf_ros.console import emit, say
from qgf_ros.errors import QgfError, StorageError, UsageError
from qgf_ros.files.regular import lock_file
from qgf_ros.signals import Flag

if TYPE_CHECKING:
    from qgf_ros.ros.trial import RobotLink
    from qgf_ros.trial.record import Record
    from qgf_ros.trial.trial_folder import TrialFolder

CONTRACT = "contract.yaml"  # the policy's, for training


@dataclass(frozen=True)
class Trial(Options):
    """Compare several beta on a running node, blinded and interleaved; stop early who does worse."""

    beta: tuple[float, ...]
    """Temperatures to compare, at least two; `inf` is unguided."""
    episodes: int = 30
    """Of each beta, at most."""
    out: Path = Path("trial")
    """Folder of the trial. With one of the same design in it, the trial goes on."""
    node: str = "/qgf"
    """Full name of the node."""
    policy: str = ""
    """Its policy folder, where that lies elsewhere than the node's parameter says."""
    limit: float = 60.0
    """s of the node's clock that an episode may take."""
    at_limit: Literal["failure", "success", "ask"] = "failure"
    """What it is then."""
    verdict: Literal["key", "topic"] = "key"
    """Who judges: the operator, or the contract's success and failure topics, and he may overrule."""
    scene: str = ""
    """A std_srvs/Trigger service that puts the scene back when the operator says start."""
    record: bool = True
    """Record a bag of each episode, for training."""
    seed: int | None = None
    """Of the order of beta. Drawn, and kept in trial.yaml, where it is not given."""

    def run(self) -> Mapping[str, Any]:
        from qgf_ros.ros.trial import connected
        from qgf_ros.trial.keys import Keys
        from qgf_ros.trial.record import Design, check_betas, resumed
        from qgf_ros.trial.result import document, show
        from qgf_ros.trial.screen import Terminal
        from qgf_ros.trial.session import Session

        self._check()
        with (
            _signals() as interrupted,
            connected(self.node, self.scene, interrupted) as link,
            self._folder(),
        ):
            check_betas(self.beta, link.info.beta_min, tuple(link.info.beta_suggested))
            seed = random.SystemRandom().randrange(2**31) if self.seed is None else self.seed
            sha256 = link.info.sha256
            rules = self.limit, self.at_limit, self.verdict
            design = Design(self.node, sha256, self.beta, self.episodes, seed, *rules)
            record = resumed(self.out, design)
            trial_folder = self._prepared(link, record)
            trial_folder.resume(record)
            link.start_guard()
            keys = Keys()
            self._greet(record, keys.there)
            session: Session

            def progress() -> tuple[int, int]:
                return len(session.record.episodes) + 1, session.record.still_to_come

            with keys.raw(), Terminal(progress) as screen:
                session = Session(link, keys, screen, trial_folder, record, interrupted)
                try:
                    over = session.run()
                finally:
                    try:
                        link.set_beta(link.beta_before)
                    except QgfError as error:  # of two errors the first one counts
                        say(f"beta is not what it was before the trial: {error}")
        found = document(session.record)
        show(session.record)
        self._hints(over)
        if not over:
            if self.json:
                emit(found)
            raise KeyboardInterrupt
        return found

    def _check(self) -> None:
        if not self.node.startswith("/") or self.node.endswith("/"):
            raise UsageError(f"--node {self.node!r} must be a full name, such as /qgf")
        if self.scene and not self.scene.startswith("/"):
            raise UsageError(f"--scene {self.scene!r} must be a full name, such as /qgf_sim/reset")
        if len(set(self.beta)) < max(2, len(self.beta)) or not all(b > 0 for b in self.beta):
            raise UsageError(
                f"--beta {' '.join(f'{b:g}' for b in self.beta)}: a trial compares at least two, each "
                "named once and above 0; inf is unguided"
            )
        if not 1 <= self.episodes <= 10_000 or not 0 < self.limit < math.inf:
            raise UsageError(
                f"--episodes {self.episodes}, --limit {self.limit:g}; allowed: 1 to 10000, and above 0 s"
            )
        if self.seed is not None and self.seed < 0:
            raise UsageError(f"--seed {self.seed}; allowed: 0 and above")

    def _prepared(self, link: RobotLink, record: Record) -> TrialFolder:
        from qgf_ros.trial.record import replace_file
        from qgf_ros.trial.trial_folder import LABELS, TrialFolder

        labels = LABELS
        if self.record or self.verdict == "topic":
            contract = link.contract(self.policy)
            labels = contract.outcome.labels
        if self.verdict == "topic":
            link.judge_by_topic(contract)
        record.save(self.out)  # from now on the folder is this trial's
        if self.record:
            link.record(contract)
            text = yaml.safe_dump(contract.recorded.to_dict(), sort_keys=False)
            replace_file(self.out / CONTRACT, text.encode())
        return TrialFolder(self.out, self.record, labels)

    def _greet(self, record: Record, keys: bool) -> None:
        if record.episodes:
            say(f"{self.out}: {len(record.episodes)} episodes are there; going on")
        topic = f"{self.node.rpartition('/')[0]}/qgf_trial/operator"
        how = "keys, and" if keys else "stdin is no terminal: no keys, only"
        say(f"operator: {how} {topic} (std_msgs/String: start, success, failure, ...)")

    def _hints(self, over: bool) -> None:
        if not over:
            say("interrupted; the same command goes on")
        if self.record:
            bags, contract, run = (
                shlex.quote(str(self.out / n)) for n in ("bags", CONTRACT, "run")
            )
            with_contract = f"{bags} --contract {contract}"
            say("recorded; look at the labels, and train on them:")
            say(f"  qgf data label {with_contract} --list")
            say(f"  qgf train {with_contract} --out {run}")

    @contextlib.contextmanager
    def _folder(self) -> Iterator[None]:
        """One trial at a time in a folder. Raises UsageError, StorageError."""
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            handle = lock_file(self.out / ".lock")
        except OSError as error:
            raise StorageError(f"cannot write {self.out}: {error.strerror}") from None
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UsageError(
                    f"another trial runs in {self.out}; choose another --out"
                ) from None
            yield
        finally:
            os.close(handle)


@contextlib.contextmanager
def _signals() -> Iterator[Any]:
    """Whatever would end or stop the process ends the trial in order instead: the robot is disabled
    first. A second Ctrl-C changes nothing."""
    came = Flag()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {n: signal.signal(n, came.set) for n in numbers}
    before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    try:
        yield came.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
