"""Pages and plots that the robot side and training share."""
