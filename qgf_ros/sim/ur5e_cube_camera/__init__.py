"""ur5e_cube_camera: as ur5e_cube, but the cube is to be seen by two cameras alone."""
