"""Names of array types that several rooms use."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Bytes = NDArray[np.uint8]
Doubles = NDArray[np.float64]
Order = NDArray[np.int32]
"""Order of columns or channels: number j is to be what number order[j] was."""
