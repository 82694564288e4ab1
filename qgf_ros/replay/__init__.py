"""Bags through the control core, without ROS: events -> drive -> segments -> tally -> report."""
