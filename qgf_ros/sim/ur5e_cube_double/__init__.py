"""ur5e_cube_double: the same robot and two cubes (OGBench cube-double)."""
