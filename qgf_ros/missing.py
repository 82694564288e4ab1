"""Which part of an installation brings a module that is not there."""

from __future__ import annotations

# Import name -> the extra of setup.py that brings it; "": the package itself.
BROUGHT_BY = {
    **dict.fromkeys(("numpy", "yaml", "safetensors", "tyro", "rich"), ""),
    **dict.fromkeys(("rosbags", "lz4", "backports"), ""),  # backports: zstd before Python 3.14
    **dict.fromkeys(("torch", "onnx", "onnxscript", "tensorboard", "pyarrow", "h5py"), "train"),
    **dict.fromkeys(("scipy", "matplotlib", "jinja2", "plotly"), "train"),
    **dict.fromkeys(("mujoco", "ogbench", "gymnasium"), "sim"),
    "onnxruntime": "onnx",
    **dict.fromkeys(("simplejpeg", "av"), "cameras"),
    **dict.fromkeys(("jax", "jaxlib"), "bench"),
}
OURS = ("qgf_ros", "training")
OF_ROS = ("rclpy", "ament_index_python", "launch", "launch_ros", "std_srvs")


def remedy(module: str | None) -> str:
    """What is missing, and what to do, for a person; module: as ModuleNotFoundError names it."""
    top = (module or "").partition(".")[0]
    if top in BROUGHT_BY:
        extra = f"[{BROUGHT_BY[top]}]" if BROUGHT_BY[top] else ""
        how = f"run `pip install '.{extra}'` in the checkout, in the environment that runs this"
    elif top in OURS:
        how = "this installation is older than its source: run `make build` or `colcon build` again"
    elif top in OF_ROS or top.endswith(("_msgs", "_interfaces")):
        how = "source a ROS 2 that has it, or use the wheels: `make build`, then `source env.sh`"
    else:
        how = "install it, or the package with all of its extras: `pip install '.[train,sim,onnx]'`"
    return f"{module or 'a module'} is not installed, which this needs; {how}"
