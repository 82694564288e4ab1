"""As a user: a bag with a JPEG that is cut short trains without that frame, says so, and ends with 3."""

import json

import pytest
import qgf_cameras
import yaml
from qgf_make import contract

pytest.importorskip("torch")
pytest.importorskip("simplejpeg")

from qgf_ros import cli


@pytest.mark.parametrize("strict", [False, True])
def test_a_truncated_jpeg_is_left_out_and_ends_with_3(tmp_path, monkeypatch, capfd, strict):
    monkeypatch.setenv("QGF_CACHE", str(tmp_path / "cache"))
    told = qgf_cameras.camera_dict("sensor_msgs/CompressedImage")
    (tmp_path / "contract.yaml").write_text(yaml.safe_dump(told))
    for k in range(6):
        torn = [(1, 5)] if k == 2 else []
        qgf_cameras.write(tmp_path / f"bags/{k}", contract(told), seed=k, torn=torn)
    arguments = ["train", tmp_path / "bags", "--contract", tmp_path / "contract.yaml", "--out", tmp_path / "run",
                 "--steps", 4, "--batch", 16, "--hidden", 8, 8, "--workers", 1, "--json"]  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        cli.main([*map(str, arguments), *(["--strict"] if strict else [])])
    out, err = capfd.readouterr()
    assert ended.value.code == (5 if strict else 3)
    assert f"qgf: error[{5 if strict else 3}]: " in err.splitlines()[-1]
    assert "1 recorded messages or episodes" in err.splitlines()[-1]
    if strict:
        assert not (tmp_path / "run/policy").exists()
        return
    assert "damaged JPEG" in err, "the summary names the reason"
    assert (tmp_path / "run/policy/policy.yaml").exists() and json.loads(out)["policy"]
