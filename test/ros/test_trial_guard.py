"""The process that disables the robot when its trial is gone, beside a fake `~/enable`.

Pinned: a guard that does not hear and is not noticed; one that forgets its robot after one silence.
"""

import signal

import pytest
import ros_harness as ros
from std_srvs.srv import SetBool

from qgf_ros.errors import QgfError
from qgf_ros.ros.trial_guard import Guard


def test_who_is_silent_is_noticed_by_the_other(domain, monkeypatch):
    for name, value in ros.environment(domain).items():
        monkeypatch.setenv(name, value)
    asked = []

    def answer(request, response):
        asked.append(request.data)
        response.success = True
        return response

    robot = ros.Wire(domain, "fake_node")
    robot.node.create_service(SetBool, "qgf/enable", answer)
    guard = Guard("/qgf/enable")
    try:
        guard.arm()
        robot.wait(lambda: asked, 20, "a stop after silence")
        first = len(asked)
        robot.wait(lambda: len(asked) > first, 20, "a stop as long as the silence lasts")
        guard._process.send_signal(signal.SIGSTOP)
        with pytest.raises(QgfError, match="has not answered for 2 s"):
            guard.arm()
        guard._process.send_signal(signal.SIGCONT)
        before = len(asked)
        guard.close()
        assert guard._process.returncode == 0
        assert len(asked) > before and not any(asked), "its end disables too"
    finally:
        guard.close()
        robot.close()
