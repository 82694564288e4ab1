"""planar_arm_position: as planar_arm, but its joints are told where to be."""
