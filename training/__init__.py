"""Offline side of qgf_ros: from recorded episodes to a policy folder. Never imported on a robot."""
