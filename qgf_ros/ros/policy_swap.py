"""`~/load_policy`: another policy for the same robot, without a pause.

A child process verifies the folder (`vetting`); waiting for it, building and timing happen in a
thread of their own, see `worker`. The executor goes on meanwhile: the callback is a coroutine in a callback
group that excludes nobody.
"""

from __future__ import annotations

import re
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.serialization import serialize_message

from qgf_ros.control.core import ControlCore
from qgf_ros.control.exchange import check_exchange
from qgf_ros.control.sampling import Build, time_budget, time_sampler
from qgf_ros.control.settings import resolve
from qgf_ros.errors import PolicyRefused, QgfError
from qgf_ros.files.strict_yaml import clipped, shown
from qgf_ros.guidance.protocols import Sampler
from qgf_ros.policy.folder import Policy
from qgf_ros.policy.manifest import said
from qgf_ros.ros.conversions import LoadPolicy, policy_message
from qgf_ros.ros.parameters import Parameters
from qgf_ros.ros.worker import Worker

CLOSING = 1.0  # s for a load that is under way to notice that the node ends
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")  # no separator, no "..", nothing hidden


@dataclass(frozen=True)
class Prepared:
    """A policy that may take over, and how long its samples took [s]."""

    policy: Policy
    sampler: Sampler
    timed: list[float]


def find_below(policies: str | None, current: Policy, name: str) -> Path:
    """The folder of a policy that is asked for by name, below `policies`, or beside the current one.

    Raises PolicyRefused.
    """
    root = Path(policies).expanduser() if policies else current.folder.parent
    if not NAME.fullmatch(name):
        raise PolicyRefused(
            f"{shown(name, 100)} is no policy's name: letters, digits, _, - and ., at most 100, no path; "
            f"policies are loaded from {said(root)}"
        )
    try:
        mode = (root / name).lstat().st_mode
    except OSError as error:
        raise PolicyRefused(f"no policy {name} in {said(root)}: {error.strerror}") from None
    if not stat.S_ISDIR(mode):
        raise PolicyRefused(f"{said(root / name)} is no folder, or a link; copy the policy there")
    return root / name


class PolicySwap:
    """The service. One request at a time; a second one is refused as BUSY."""

    def __init__(
        self,
        node: Node,
        parameters: Parameters,
        core: Callable[[], ControlCore | None],
        vet: Callable[[Path, Callable[[], bool], str], Policy],
        build: Build,
        swapped: Callable[[Policy, Sampler], None],
        encode: Callable[[str, Callable[[], bool]], None],
    ) -> None:
        """
        Args:
            core: the one in use; None: not configured.
            vet: the policy of a folder for a device, looked at by another process; it is given up
                as soon as the function that it is given says True.
            swapped: what the node does when another policy has taken over.
            encode: has the cameras of a policy of that name encoded, of which it raises PolicyRefused
                where that cannot be.
        """
        self._node = node
        self._parameters = parameters
        self._core = core
        self._vet = vet
        self._build = build
        self._swapped = swapped
        self._encode = encode
        self._busy = ""
        self._closing = threading.Event()
        self._worker = Worker(node, "qgf-load-policy")
        node.create_service(
            LoadPolicy, "~/load_policy", self._on_request, callback_group=ReentrantCallbackGroup()
        )

    def close(self) -> None:
        """Gives up what is being loaded, and ends the worker."""
        self._closing.set()
        self._worker.close(CLOSING)

    async def _on_request(
        self, request: LoadPolicy.Request, response: LoadPolicy.Response
    ) -> LoadPolicy.Response:
        core = self._core()
        if core is None:
            response.message = "the node is not configured; configure it first"
            return response
        response.sha256 = core.policy.sha256
        if self._busy:
            response.message = f"BUSY: {self._busy} is being loaded; call again when it is done"
            return response
        self._busy = clipped(request.name, 100) or "a policy"
        try:
            response.message = await self._load(core, request.name)
            response.success = True
        except QgfError as error:
            response.message = clipped(error, 2000)
        except MemoryError:
            response.message = f"there is no memory to load {self._busy}; free some, and call again"
        except Exception as error:  # a backend's; what runs goes on
            response.message = f"{type(error).__name__}: {clipped(error)}"
        finally:
            self._busy = ""
        response.sha256 = core.policy.sha256
        log = self._node.get_logger()
        if response.success:
            log.info(response.message)
        else:
            log.warning(f"~/load_policy: {response.message}")
        return response

    async def _load(self, core: ControlCore, name: str) -> str:
        """What happened, in a sentence. Raises QgfError, or what a backend raises."""
        prepared = await self._worker.do(lambda: self._prepare(core, name))
        if self._core() is not core:
            raise PolicyRefused(f"{name}: the node was configured anew meanwhile; call again")
        return self._take_over(core, prepared)

    def _prepare(self, core: ControlCore, name: str) -> Prepared:
        """In the worker."""
        folder = find_below(self._parameters.values["policies"], core.policy, name)
        policy = self._vet(folder, self._closing.is_set, core.sampling.device)
        check_exchange(policy, core.policy.contract)
        settings = resolve(self._parameters.values, policy, fall_back=True)  # they have to fit
        sampler = self._build(policy, core.sampling.device)
        if sampler.device != core.sampling.device:
            raise PolicyRefused(
                f"{name} would run on {sampler.device}, and this node runs on {core.sampling.device}"
            )
        timed = time_sampler(policy, sampler, settings.num_candidates)
        slowest, budget = max(timed), time_budget(policy)
        if slowest > budget:
            raise PolicyRefused(
                f"{name}: a sample takes {slowest * 1e3:.1f} ms, and there are {budget * 1e3:.1f} ms for it"
            )
        if policy.cameras:  # last: from then on features of both policies are made
            self._encode(name, self._closing.is_set)
        return Prepared(policy, sampler, timed)

    def _take_over(self, core: ControlCore, prepared: Prepared) -> str:
        policy, sampler = prepared.policy, prepared.sampler
        # Anew: parameters may have been set since it was prepared.
        settings = resolve(self._parameters.values, policy, fall_back=True)
        before, value, floor = core.settings.beta, settings.beta, policy.description.beta.min
        serialize_message(policy_message(policy, sampler))  # what cannot be said does not drive
        core.swap(policy, sampler, settings, prepared.timed)
        # From here on it drives: nothing may turn the answer into a failure.
        for follow in (
            lambda: self._parameters.settle("beta", value, floor),
            lambda: self._swapped(policy, sampler),
        ):
            try:
                follow()
            except Exception as error:
                self._node.get_logger().error(
                    f"~/load_policy: after the swap: {clipped(repr(error))}"
                )
        if value == before:
            said = f"beta stays {value:g}"
        else:
            said = f"beta is now {value:g}, this policy's default; it was {before:g}"
        return (
            f"policy {policy.name} ({policy.sha256[:12]}) has taken over; {said} "
            f"(allowed: {floor:g} to inf)"
        )
