"""Nodes that cost less to wait for, and executors and services that outlive what they are sent.

rclpy makes two event handlers for each publisher and subscription, which log that a peer has another
QoS or another type, and for each message it goes over all of them in Python: in the node `qgf` that
took more of the interpreter, and longer of its lock, than the messages did. Peers that cannot be
understood are told by `peers.unheard`, and by the peers themselves.

An error while a message is being taken leaves rclpy's executor deaf: the message's subscription, and
all of its callback group, wait for an end that never comes. And a service whose callback raises does
not answer. Both end here, once for all of a node's callbacks, rclpy's own among them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

from rcl_interfaces.msg import ParameterType, SetParametersResult
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.exceptions import InvalidTopicNameException
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node

from qgf_ros.errors import UsageError

KINDS = range(ParameterType.PARAMETER_STRING_ARRAY + 1)  # of parameters
MAX_TEXT = 500  # characters of an error in an answer


class _Lean:
    """Before a node class: only those event handlers that are asked for, and services that answer."""

    # Is told what a service's callback raised; None: it is raised on, and nobody is answered.
    failed: Callable[[Exception], None] | None = None

    def create_service(
        self, srv_type: Any, srv_name: str, callback: Any, *args: Any, **kwargs: Any
    ) -> Any:
        answering = self._answering(callback)
        return super().create_service(srv_type, srv_name, answering, *args, **kwargs)  # type: ignore[misc]

    def _answering(self, callback: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def failed(request: Any, response: Any, error: Exception) -> Any:
            if self.failed is None:
                raise error
            self.failed(error)
            why = f"{type(error).__name__}: {error}"[:MAX_TEXT]
            return _refused(request, type(response)(), why)

        @wraps(callback)
        def answer(request: Any, response: Any) -> Any:
            if why := unknown_kind(request):
                return _refused(request, response, why)
            try:
                return callback(request, response)
            except Exception as error:
                return failed(request, response, error)

        @wraps(callback)
        async def answer_later(request: Any, response: Any) -> Any:
            if why := unknown_kind(request):
                return _refused(request, response, why)
            try:
                return await callback(request, response)
            except Exception as error:
                return failed(request, response, error)

        # rclpy awaits what it sees to be a coroutine function, and nothing else.
        return answer_later if iscoroutinefunction(callback) else answer

    def create_publisher(self, msg_type: Any, topic: str, *args: Any, **kwargs: Any) -> Any:
        kwargs.setdefault("event_callbacks", PublisherEventCallbacks(use_default_callbacks=False))
        with _topic_that_can_be(msg_type, topic):
            return super().create_publisher(msg_type, topic, *args, **kwargs)  # type: ignore[misc]

    def create_subscription(self, msg_type: Any, topic: str, *args: Any, **kwargs: Any) -> Any:
        kwargs.setdefault(
            "event_callbacks", SubscriptionEventCallbacks(use_default_callbacks=False)
        )
        with _topic_that_can_be(msg_type, topic):
            return super().create_subscription(msg_type, topic, *args, **kwargs)  # type: ignore[misc]


@contextlib.contextmanager
def _topic_that_can_be(msg_type: Any, topic: str) -> Iterator[None]:
    """What rclpy raises of a topic's name or type, as a UsageError."""
    try:
        yield
    except (RuntimeError, ValueError, InvalidTopicNameException) as error:
        why = " ".join(str(error).split())[:MAX_TEXT]
        raise UsageError(
            f"topic {topic[:80]!r} with type {msg_type.__name__} cannot be had: {why}; it is too long, no "
            "name, or in use with another type, perhaps by this node itself"
        ) from None


class LeanNode(_Lean, Node):
    """A node."""


class LeanLifecycleNode(_Lean, LifecycleNode):
    """A node with a life cycle."""


class EnduringExecutor(SingleThreadedExecutor):
    """What cannot be taken is as if it had not come; `failed` is told."""

    def __init__(self, failed: Callable[[Exception], None], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._failed = failed

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """As rclpy's; also where that does not come by `_take_...`, which are private names."""
        try:
            super().spin_once(timeout_sec)
        except Exception as error:
            if not self._freed():
                raise  # of a callback
            self._failed(error)

    def _freed(self) -> bool:
        """Lets go of what was being taken; False where nothing was."""
        stuck: list[Any] = [
            entity
            for node in self.get_nodes()
            for entity in (*node.subscriptions, *node.clients, *node.services)
            if getattr(entity, "_executor_event", False)
        ]
        for entity in stuck:
            entity._executor_event = False
            with contextlib.suppress(AssertionError):  # it was not that one
                entity.callback_group.ending_execution(entity)
        return bool(stuck)

    def _take_subscription(self, *args: Any) -> Any:
        return self._tried(super()._take_subscription, *args)

    def _take_client(self, *args: Any) -> Any:
        return self._tried(super()._take_client, *args)

    def _take_service(self, *args: Any) -> Any:
        return self._tried(super()._take_service, *args)

    def _tried(self, take: Callable[..., Any], *args: Any) -> Any:
        try:
            return take(*args)
        except Exception as error:
            self._failed(error)
            return None


def unknown_kind(request: Any) -> str:
    """Why a request to set parameters means nothing, or ""."""
    if isinstance(request, (SetParameters.Request, SetParametersAtomically.Request)):
        for parameter in request.parameters:
            if parameter.value.type not in KINDS:
                return (
                    f"{parameter.name[:80]!r} is of type {parameter.value.type}, which there is not; "
                    f"allowed: 0 to {KINDS[-1]} (rcl_interfaces/ParameterType)"
                )
    return ""


def _refused(request: Any, response: Any, why: str) -> Any:
    """The answer of a service that has failed, as far as its type can say so."""
    refusal = SetParametersResult(successful=False, reason=why)
    if isinstance(request, SetParameters.Request):
        response.results = [refusal for _ in request.parameters]
    elif isinstance(request, SetParametersAtomically.Request):
        response.result = refusal
    elif hasattr(response, "message"):
        response.message = why
    return response
