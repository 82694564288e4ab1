"""A blinded, interleaved comparison of several beta on a robot. What is here knows no ROS; the side
that does is `qgf_ros.ros.trial`."""
