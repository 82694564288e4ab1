"""Several publishers on ~/estop: what one of them says does not undo what another one said."""

import pytest

pytest.importorskip("rclpy")
from std_msgs.msg import Bool

from qgf_ros.ros.estop import EmergencyStop


class Graph:
    """A node that only knows how many publish."""

    publishers = 2

    def create_subscription(self, kind, topic, callback, profile, event_callbacks):
        self.say = lambda pressed: callback(Bool(data=pressed))

    def count_publishers(self, topic):
        return self.publishers


def test_fault_114_the_false_of_one_does_not_release_the_true_of_another():
    graph, stops = Graph(), []
    estop = EmergencyStop(graph, lambda: stops.append(1), required=False)
    graph.say(True)
    graph.say(False)
    assert estop.is_pressed and stops == [1]
    graph.publishers = 1
    graph.say(False)
    assert not estop.is_pressed
