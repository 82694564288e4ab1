# Source this: Python, ROS 2 (a sourced one, else the pip wheels of .venv) and the colcon build.
_here="$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")" && pwd)"
export PATH="$_here/.venv/bin:$PATH"
if [ -z "${ROS_DISTRO:-}" ]; then
  export AMENT_PREFIX_PATH="$_here/.venv" CMAKE_PREFIX_PATH="$_here/.venv"
  export ROS_AUTOMATIC_DISCOVERY_RANGE="${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}"
fi
if [ -f "$_here/install/setup.bash" ]; then
  . "$_here/install/setup.bash"
fi
unset _here
