"""Types of the arrays in histories and forecasts."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Dates = npt.NDArray[np.datetime64]
Places = npt.NDArray[np.int64]  # row or series numbers
