"""planar_arm_camera: as planar_arm, but goal and post are to be seen by a camera alone."""
