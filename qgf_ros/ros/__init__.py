"""The thin ROS 2 side: nodes, parameters, conversions. Everything that decides is in `control`."""
