"""Q-Guided Flow on a robot: what runs beside the motors. Training lives in `training`."""

import pkgutil

# The compiled messages (qgf_ros.msg, qgf_ros.srv) lie in the colcon install folder. Without this
# line a working directory that holds the source tree would hide them.
__path__ = pkgutil.extend_path(__path__, __name__)

__version__ = "0.1.0"
