"""Numbers for the page, short: it holds a hundred thousand of them."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
from torch import Tensor

DIGITS = 5  # of a number that is read
BITS = {8: "u1", 16: "<u2"}


def short(values: Tensor) -> Any:
    """Nested lists, as `tolist`, in five digits; what is not finite becomes null."""

    def cut(value: Any) -> Any:
        if isinstance(value, list):
            return [cut(v) for v in value]
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None

    return cut(values.tolist())


def pack(values: Tensor, bits: int = 16) -> dict[str, Any]:
    """{shape, bits, low, high, data} of what is drawn, not read: base64 of little-endian unsigned
    integers, evenly spaced from low to high, the largest code for what is not finite.

    bits: 8 or 16; off by at most (high - low) / 508 or / 131068. `policy/page.js` reads it again.
    """
    numbers = values.detach().double().numpy()
    known = np.isfinite(numbers)
    low, high = (numbers[known].min(), numbers[known].max()) if known.any() else (0.0, 0.0)
    levels = 2**bits - 2
    unit = (high - low) / levels or 1.0
    codes = np.where(known, np.rint((np.where(known, numbers, low) - low) / unit), levels + 1)
    return {
        "shape": list(numbers.shape),
        "bits": bits,
        "low": float(low),
        "high": float(high),
        "data": base64.b64encode(codes.astype(BITS[bits]).tobytes()).decode(),
    }
