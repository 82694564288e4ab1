"""Commands that the gate would drop unread are refused when the node is configured."""

import pytest

from qgf_ros.errors import UsageError
from qgf_ros.ros.outside_gate import check_size


def test_fault_012_a_contract_whose_commands_the_gate_would_not_read_is_refused():
    check_size("/qgf", tuple(f"arm.joint_{i}" for i in range(100)))
    with pytest.raises(UsageError, match="65536; shorten the names"):
        check_size("/qgf", tuple(f"arm.{'j' * 150}_{i}" for i in range(500)))
