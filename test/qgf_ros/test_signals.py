"""What a signal's handler does while another signal comes."""

import signal
import sys
import threading

import pytest

from qgf_ros.signals import Flag


def interrupted(handler):
    """Whether a handler ends that is called again before each of its steps, as by signals that come at once."""
    over = threading.Event()

    def tracer(frame, event, _):
        sys.settrace(None)
        handler(signal.SIGINT, None)
        sys.settrace(tracer)
        return tracer

    def run():
        sys.settrace(tracer)
        handler(signal.SIGTERM, None)
        sys.settrace(None)
        over.set()

    threading.Thread(target=run, daemon=True).start()
    return over.wait(2.0)


def test_an_event_would_wait_for_itself():
    """Why there is `Flag`; and that this test would notice."""
    event = threading.Event()
    assert not interrupted(lambda *_: event.set())


def test_fault_073_a_signal_within_another_ones_handler_waits_for_nothing():
    flag = Flag()
    assert not flag.is_set() and interrupted(flag.set) and flag.is_set()


def test_a_flag_is_waited_for_no_longer_than_said():
    flag = Flag()
    assert not flag.wait(0.0) and not flag.wait(0.01)
    threading.Timer(0.05, flag.set).start()
    assert flag.wait(30.0) and flag.wait(0.0)


def of_the_nodes(monkeypatch):
    rclpy = pytest.importorskip("rclpy")
    from qgf_ros.ros import process

    monkeypatch.setattr(process, "STOPPING", type(process.STOPPING)())  # one of its own

    def stops(**_):
        raise RuntimeError("no further")

    monkeypatch.setattr(rclpy, "init", stops)
    with pytest.raises(SystemExit):
        process.run(lambda: None, "nobody")


def of_watch(monkeypatch):
    from qgf_ros.watch import verb

    with verb._stopped_by_signals():
        return


def of_trial(monkeypatch):
    from qgf_ros.trial import verb

    with verb._signals():
        return


@pytest.mark.parametrize("install", [of_the_nodes, of_watch, of_trial])
def test_fault_073_no_handler_of_ours_takes_a_lock(install, monkeypatch):
    seen = []

    def installed(_, handler):
        seen.append(handler)
        return signal.SIG_DFL

    monkeypatch.setattr(signal, "signal", installed)
    install(monkeypatch)
    ours = [h for h in seen if callable(h) and not isinstance(h, signal.Handlers)]
    assert len(ours) >= 2
    for handler in ours:
        assert interrupted(handler), f"{handler} waits for itself"
