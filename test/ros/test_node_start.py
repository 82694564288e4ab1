"""How the node starts: still until it is enabled, and out with the right code when it cannot.

Pinned: a node that came up moving; publishers that exist before the configuration was checked;
`beta: 1` in YAML that killed the node at declaration; a traceback instead of the one line.
"""

import math
import os
import pickle
import shutil
import signal
import subprocess
import time

import pytest
import ros_harness as ros
from qgf_make import edit, negate, resign
from safetensors.numpy import load_file, save_file

from qgf_ros.files.share import share_folder

POLICY = share_folder() / "config" / "policies" / "planar_arm"


def refused(domain, *args, code, files=(), policy="planar_arm", within=20.0, **parameters):
    """The node ends by itself with `code` and the one line; nobody saw a publisher of commands."""
    watcher = ros.FakeRobot(domain)
    parameters = ({"policy": policy} if policy is not None else {}) | parameters
    began = time.monotonic()
    seen = 0
    proc = ros.Proc([*ros.node_command(), *ros.ros_args(files=files, **parameters), *args], domain)
    try:
        while proc.running and time.monotonic() < began + within:
            seen = max(seen, watcher.node.count_publishers("velocity_controller/commands"))
            time.sleep(0.01)
        assert proc.wait(1.0) == code, proc.log
        assert proc.err[-1].startswith(f"qgf: error[{code}]: "), proc.log
        assert not any("Traceback" in line for line in proc.err), proc.log
        assert "qgf: READY" not in proc.out
        assert seen == 0
        assert not watcher.commands and not watcher.candidates
    finally:
        proc.close()
        watcher.close()
    return proc.err[-1]


def test_fault_113_node_is_still_until_enabled_then_commands_at_rate_with_q_values(domain):
    with ros.node_and_robot(domain) as (proc, robot):
        robot.speak()
        robot.wait_state(ros.READY, 10, proc)
        began = time.monotonic()
        robot.wait(lambda: time.monotonic() - began > 1.0, 2.0, "a second of patience")
        assert robot.commands == [] and robot.candidates == [] and robot.q_values == []
        assert robot.state == ros.READY and not robot.statuses[-1].msg.enabled

        robot.enabled()
        robot.wait_state(ros.RUN, 5, proc)
        first = robot.wait_commands(1)[0].at
        robot.wait(lambda: robot.commands[-1].at - first >= 3.0, 6.0, "three seconds of commands")
        at = [c.at for c in robot.commands]
        rate = (len(at) - 1) / (at[-1] - at[0])
        gaps = [b - a for a, b in zip(at, at[1:])]
        reported = robot.statuses[-1].msg.achieved_rate
        print(
            f"{rate:.2f} Hz over {at[-1] - at[0]:.2f} s, largest gap {max(gaps) * 1e3:.1f} ms, reported {reported:.0f} Hz"
        )
        lost = 2 * ros.slack() / (at[-1] - at[0])  # to a machine that let nobody run for a moment
        assert (0.95 - lost) / ros.PERIOD <= rate <= (1.02 + lost) / ros.PERIOD
        assert 18 - 2 * ros.slack() / ros.PERIOD <= reported <= 21
        plausible_candidates(robot)
        plausible_q_values(robot)
        assert any(max(map(abs, c.values)) > 0.05 for c in robot.commands), (
            "the policy moves the arm"
        )


def plausible_candidates(robot):
    messages = [c.msg for c in robot.candidates]
    sequence = [m.sequence for m in messages]
    assert sequence == list(range(1, len(sequence) + 1))
    assert {tuple(m.names) for m in messages} == {("arm.shoulder", "arm.elbow")}
    assert {m.owner for m in messages} == {"/qgf"}
    grid = round(ros.PERIOD * 1e9)
    stamps = (
        set(robot.stamps["joint_states"])
        | set(robot.stamps["goal"])
        | set(robot.stamps["obstacle"])
    )
    for m in messages:
        assert ros.ns(m.execute_at) % grid == 0
        assert 0 < ros.ns(m.deadline) - ros.ns(m.execute_at) <= 3 * grid
        assert ros.ns(m.header.stamp) in stamps, (
            "the command names an observation that was never made"
        )
        assert 0 <= ros.ns(m.execute_at) - ros.ns(m.header.stamp) < 0.15e9 or ros.ns(
            m.header.stamp
        ) > ros.ns(m.execute_at)


def plausible_q_values(robot):
    messages = [m.msg for m in robot.q_values]
    samples = len(robot.candidates) / 5
    assert abs(len(messages) - samples) <= 1, f"{len(messages)} QValues for {samples} chunks"
    stamps = {s for made in robot.stamps.values() for s in made}
    info = robot.infos[-1].msg
    assert (info.backend, info.device, info.horizon, info.execute_steps) == ("native", "cpu", 5, 5)
    assert info.backend_details.startswith("float32, ") and info.backend_note == ""
    assert info.sha256 == robot.statuses[-1].msg.policy_sha256 and len(info.sha256) == 64
    assert [m.sequence for m in messages] == list(range(1, len(messages) + 1))
    for i, m in enumerate(messages):
        assert ros.ns(m.observation_stamp) in stamps
        assert m.beta == info.beta_default
        assert m.state == "RUN" and m.epoch == robot.candidates[-1].msg.epoch
        assert m.q_gain == pytest.approx(m.q_sampled - m.q_unguided)
        assert -4 < m.q_sampled < 3 and -4 < m.q_unguided < 3
        assert 0 <= m.ensemble_spread < 3
        assert 0 <= m.gradient_norm < 50 and 0 <= m.guidance_ratio < 100
        assert 0 <= m.share_clipped <= 1
        assert list(m.guards) == []
        assert 0 < m.inference_ms and 0 < m.tick_ms  # how long is bench/'s to say
        # Below 0: a tick that began late sees what was stamped after its deadline.
        assert -ros.slack() <= m.observation_age < 0.1 + ros.slack()
        assert math.isnan(m.share_executed) if i == 0 else m.share_executed == 1.0


def test_fault_113_a_killed_and_respawned_node_is_still_until_it_is_enabled_again(domain):
    robot = ros.FakeRobot(domain)
    command = [*ros.node_command(), *ros.ros_args(policy="planar_arm")]
    first = second = None
    try:
        first = ros.Proc(command, domain)
        first.wait_line("qgf: READY")
        robot.drive(first)
        first.send(signal.SIGKILL)
        first.wait(5.0)
        robot.wait(
            lambda: time.monotonic() - robot.statuses[-1].at > 0.3,
            5,
            "the last status of the first node",
        )
        before = len(robot.commands)
        second = ros.Proc(command, domain)
        second.wait_line("qgf: READY")
        robot.wait_state(ros.READY, 10, second)
        robot.wait_statuses(10)
        assert len(robot.commands) == before
        assert robot.state == ros.READY
        second.stop()
        robot.refuse_violations()
    finally:
        for proc in filter(None, (first, second)):
            proc.close()
        robot.close()


def test_enable_on_start_moves_without_a_service_call(domain):
    with ros.node_and_robot(domain, enable_on_start=True) as (proc, robot):
        robot.speak()
        robot.wait_state(ros.RUN, 10, proc)
        robot.wait_commands(5)


def test_the_installed_executable_is_the_same_node(domain):
    proc = ros.Proc([ros.installed("qgf_node"), *ros.ros_args(policy="planar_arm")], domain)
    try:
        proc.wait_line("qgf: READY")
        proc.stop()
    finally:
        proc.close()


BAD_YAML = {
    "unknown key": "/**:\n  ros__parameters:\n    betta: 0.2\n",
    "unknown nested key": "/**:\n  ros__parameters:\n    guidance:\n      gain: 1.0\n",
    "beta is text": "/**:\n  ros__parameters:\n    beta: much\n",
    "beta is a bool": "/**:\n  ros__parameters:\n    beta: true\n",
    "beta is NaN": "/**:\n  ros__parameters:\n    beta: .nan\n",
    "beta is zero": "/**:\n  ros__parameters:\n    beta: 0\n",
    "beta below the floor": "/**:\n  ros__parameters:\n    beta: 0.001\n",
    "beta is a list": "/**:\n  ros__parameters:\n    beta: [0.1, 0.2]\n",
    "candidates is a float": "/**:\n  ros__parameters:\n    num_candidates: 2.0\n",
    "threads beyond its range": "/**:\n  ros__parameters:\n    threads: 1000\n",
    "limits_scale above one": "/**:\n  ros__parameters:\n    limits_scale: 1.5\n",
    "limits_scale is NaN": "/**:\n  ros__parameters:\n    limits_scale: .nan\n",
    "backend unknown": "/**:\n  ros__parameters:\n    backend: tensorrt\n",
    "autostart is text": "/**:\n  ros__parameters:\n    autostart: sure\n",
    "not a parameter file": "beta: 0.2\n",
    "not YAML": "/**: [\n",
}


@pytest.mark.parametrize("text", BAD_YAML.values(), ids=BAD_YAML)
def test_fault_033_bad_parameter_file_ends_with_code_2_before_any_publisher(domain, tmp_path, text):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    line = refused(domain, code=2, files=(file,))
    print(line)


def test_fault_033_missing_parameter_file_ends_with_code_2(domain, tmp_path):
    refused(domain, code=2, files=(tmp_path / "none.yaml",))


@pytest.mark.parametrize("beta", ["1", "0.05", ".inf", "inf", "'inf'"])
def test_fault_025_an_integer_and_infinity_are_a_beta_in_a_parameter_file(domain, tmp_path, beta):
    file = tmp_path / "good.yaml"
    file.write_text(f"/**:\n  ros__parameters:\n    policy: planar_arm\n    beta: {beta}\n")
    robot = ros.FakeRobot(domain)
    proc = ros.Proc([*ros.node_command(), *ros.ros_args(files=(file,))], domain)
    try:
        proc.wait_line("qgf: READY")
        status = robot.wait_state(ros.WAITING, 10, proc).msg
        assert status.beta == float(beta.strip("'").replace(".inf", "inf"))
        proc.stop()
    finally:
        proc.close()
        robot.close()


def test_a_policy_that_commands_one_of_the_nodes_own_topics_ends_with_code_2(domain, tmp_path):
    folder = tmp_path / "p"
    shutil.copytree(POLICY, folder)
    edit(folder, "contract", "actions", 0, "topic", value="qgf/status")
    assert "cannot be had" in refused(domain, code=2, policy=folder)


def test_unknown_ros_arguments_end_with_code_2(domain):
    refused(domain, "-r", "__ns:=not a name", code=2)


def test_fault_036_missing_policy_ends_with_code_4(domain, tmp_path):
    assert "planar_arm" in refused(domain, code=4, policy=tmp_path / "none"), (
        "the shipped ones are named"
    )


def test_fault_036_no_policy_given_ends_with_code_4(domain):
    refused(domain, code=4, policy=None)


@pytest.mark.parametrize(
    "name",
    ["policy.yaml", "velocity.safetensors", "critic.safetensors", "sampler.onnx", "SHA256SUMS"],
)
def test_fault_036_one_changed_byte_in_the_policy_ends_with_code_4(domain, tmp_path, name):
    folder = tmp_path / "policy"
    shutil.copytree(POLICY, folder)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    refused(domain, code=4, policy=folder)


def _fifo(folder):
    (folder / "policy.yaml").unlink()
    os.mkfifo(folder / "policy.yaml")


def _nan_weights(folder):
    weights = load_file(folder / "velocity.safetensors")
    next(iter(weights.values())).flat[0] = math.nan
    save_file(weights, folder / "velocity.safetensors")
    resign(folder)


def _pickle(folder):
    canary = folder.parent / "canary"
    (folder / "critic.safetensors").write_bytes(
        pickle.dumps(subprocess.run) + f"(S'touch {canary}'\nios\nsystem\n.".encode()
    )
    resign(folder)


@pytest.mark.parametrize("spoil", [_fifo, _nan_weights, _pickle], ids=lambda f: f.__name__)
def test_fault_036_042_043_a_spoilt_policy_ends_with_code_4_and_soon(domain, tmp_path, spoil):
    folder = tmp_path / "policy"
    shutil.copytree(POLICY, folder)
    spoil(folder)
    began = time.monotonic()
    line = refused(domain, code=4, policy=folder)
    print(f"after {time.monotonic() - began:.2f} s: {line}")
    assert not (tmp_path / "canary").exists()


def test_fault_124_a_sampler_that_answers_the_opposite_ends_with_code_4(domain, tmp_path):
    pytest.importorskip("onnx")
    folder = tmp_path / "policy"
    shutil.copytree(POLICY, folder)
    negate(folder)
    line = refused(domain, code=4, policy=folder, backend="onnx")
    assert "the onnx sampler does not answer as the policy's weights do" in line
    assert "qgf export" in line


def test_half_precision_by_another_backend_ends_with_code_2(domain):
    assert "float16" in refused(domain, code=2, backend="onnx", precision="float16")


def test_fault_061_cuda_without_a_gpu_ends_with_code_6(domain):
    assert "cuda" in refused(domain, code=6, device="cuda")


def test_onnx_by_name_in_a_python_without_it_ends_with_code_6(domain, tmp_path):
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('not here')\n")
    watcher = ros.run_to_end(
        [*ros.node_command(), *ros.ros_args(policy="planar_arm", backend="onnx")],
        domain,
        PYTHONPATH=f"{tmp_path}:{ros.environment(domain).get('PYTHONPATH', '')}",
    )
    assert watcher.process.returncode == 6, watcher.log
    assert watcher.err[-1].startswith("qgf: error[6]: ") and "onnxruntime" in watcher.err[-1]


def test_node_runs_without_onnxruntime_and_torch(domain, tmp_path):
    for name in ("onnxruntime", "torch", "mujoco", "training", "rosbags"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not on this robot')\n")
    proc = ros.Proc(
        [*ros.node_command(), *ros.ros_args(policy="planar_arm")],
        domain,
        PYTHONPATH=f"{tmp_path}:{ros.environment(domain).get('PYTHONPATH', '')}",
    )
    try:
        proc.wait_line("qgf: READY")
        proc.stop()
    finally:
        proc.close()


@pytest.mark.parametrize("kind", ["another type", "the same type"])
def test_fault_083_command_topic_remapped_onto_a_state_topic_ends_with_code_2(
    domain, tmp_path, kind
):
    policy = POLICY
    if kind == "the same type":
        policy = tmp_path / "policy"
        shutil.copytree(POLICY, policy)
        text = (policy / "policy.yaml").read_text()
        array = "type: std_msgs/Float64MultiArray\n    fields: []"
        assert array in text
        (policy / "policy.yaml").write_text(
            text.replace(array, "type: sensor_msgs/JointState\n    fields: [velocity]")
        )
        resign(policy)
    refused(
        domain,
        "-r",
        "velocity_controller/commands:=joint_states",
        code=2,
        policy=policy,
        within=4.0,
    )


def failed_configure(robot, proc):
    robot.wait_state(ros.UNCONFIGURED, 10, proc)
    assert not robot.transition(ros.Transition.TRANSITION_CONFIGURE)
    assert robot.life_cycle() == "unconfigured"
    assert proc.running


def test_without_autostart_the_node_waits_and_says_why_configure_failed(domain, tmp_path):
    with ros.node_and_robot(domain, autostart=False, policy=tmp_path / "none") as (proc, robot):
        failed_configure(robot, proc)
        said = robot.wait_state(ros.UNCONFIGURED, 1.0, proc, reason="4").msg
        assert "none" in said.detail
        proc.kill()
        proc.wait(5.0)


def test_a_configure_that_failed_earlier_is_not_the_exit_code_of_a_signal(domain, tmp_path):
    with ros.node_and_robot(domain, autostart=False, policy=tmp_path / "none") as (proc, robot):
        failed_configure(robot, proc)
