"""planar_arm: reach a goal on the far side, with a post that blocks one of the two ways around."""
