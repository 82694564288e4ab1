"""`~/load_policy`: another policy for the same robot, without a pause.

Reading, verifying, building and timing happen in a thread of their own. The executor goes on
meanwhile: the callback is a coroutine in a callback group that excludes nobody.
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
from rclpy.task import Future

from qgf_ros.control.core import ControlCore
from qgf_ros.control.exchange import check_exchange
from qgf_ros.control.sampling import Build, time_budget, time_sampler
from qgf_ros.errors import PolicyRefused, QgfError
from qgf_ros.policy import Policy, load_policy
from qgf_ros.ros.conversions import LoadPolicy
from qgf_ros.ros.parameters import Parameters
from qgf_ros.sampler.base import Sampler
from qgf_ros.sampler.guards import guards_of

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")  # no separator, no "..", nothing hidden


@dataclass(frozen=True)
class Prepared:
    """A policy that may take over, and how long its samples took [s]."""

    policy: Policy
    sampler: Sampler
    timed: list[float]


class PolicySwap:
    """The service. One request at a time; a second one is refused as BUSY."""

    def __init__(
        self,
        node: Node,
        parameters: Parameters,
        core: Callable[[], ControlCore | None],
        build: Build,
        swapped: Callable[[Policy, Sampler], None],
    ) -> None:
        """
        Args:
            core: the one in use; None: not configured.
            swapped: what the node does when another policy has taken over.
        """
        self._node = node
        self._parameters = parameters
        self._core = core
        self._build = build
        self._swapped = swapped
        self._busy = ""
        node.create_service(
            LoadPolicy, "~/load_policy", self._on_request, callback_group=ReentrantCallbackGroup()
        )

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
        self._busy = request.name[:100] or "a policy"
        try:
            response.message = await self._load(core, request.name)
            response.success = True
        except QgfError as error:
            response.message = str(error)
        except Exception as error:  # a backend's; what runs goes on
            response.message = f"{type(error).__name__}: {error}"
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
        done: Future[Prepared | Exception] = Future(executor=self._node.executor)

        def work() -> None:
            try:
                done.set_result(self._prepare(core, name))
            except Exception as error:  # raised again where it is awaited
                done.set_result(error)

        threading.Thread(target=work, name="qgf-load-policy", daemon=True).start()
        prepared = await done
        if not isinstance(prepared, Prepared):
            assert prepared is not None
            raise prepared
        if self._core() is not core:
            raise PolicyRefused(f"{name}: the node was configured anew meanwhile; call again")
        return self._take_over(core, prepared)

    def _prepare(self, core: ControlCore, name: str) -> Prepared:
        """In the worker."""
        policy = load_policy(self._find(core, name))
        check_exchange(policy, core.policy.contract)
        guards_of(self._parameters.values, policy)  # they go on, and have to fit this one too
        sampler = self._build(policy, core.sampling.device)
        if sampler.device != core.sampling.device:
            raise PolicyRefused(
                f"{name} would run on {sampler.device}, and this node runs on {core.sampling.device}"
            )
        timed = time_sampler(policy, sampler, core.tuning.num_candidates)
        slowest, budget = max(timed), time_budget(policy)
        if slowest > budget:
            raise PolicyRefused(
                f"{name}: a sample takes {slowest * 1e3:.1f} ms, and there are {budget * 1e3:.1f} ms for it"
            )
        return Prepared(policy, sampler, timed)

    def _find(self, core: ControlCore, name: str) -> Path:
        folder = self._parameters.values["policies"]
        root = Path(folder).expanduser() if folder else core.policy.folder.parent
        if not NAME.fullmatch(name):
            raise PolicyRefused(
                f"{name[:100]!r} is no policy's name: letters, digits, _, - and ., at most 100, no path; "
                f"policies are loaded from {root}"
            )
        try:
            mode = (root / name).lstat().st_mode
        except OSError as error:
            raise PolicyRefused(f"no policy {name} in {root}: {error.strerror}") from None
        if not stat.S_ISDIR(mode):
            raise PolicyRefused(f"{root / name} is no folder, or a link; copy the policy there")
        return root / name

    def _take_over(self, core: ControlCore, prepared: Prepared) -> str:
        policy, sampler = prepared.policy, prepared.sampler
        beta, floor = policy.description.beta, ("beta", policy.description.beta.min)
        guards_of(self._parameters.values, policy)  # they may have been set since it was prepared
        before = core.tuning.beta
        value = self._parameters.fitting(*floor, beta.default, fall_back=True)
        core.swap(policy, sampler, value, prepared.timed)
        self._parameters.set_floor(*floor, beta.default, fall_back=True)
        self._swapped(policy, sampler)
        if value == before:
            said = f"beta stays {value:g}"
        else:
            said = f"beta is now {value:g}, this policy's default; it was {before:g}"
        return (
            f"policy {policy.name} ({policy.sha256[:12]}) has taken over; {said} "
            f"(allowed: {beta.min:g} to inf)"
        )
