"""ur5e_cube_goals: the same robot, told by a topic where to take the cube."""
