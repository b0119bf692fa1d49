"""Arrays on disk: what is read, and what is refused."""

import numpy as np
import pytest

from adnerf_jax.common.array_files import read_array
from adnerf_jax.common.errors import UserError


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64, np.float16, np.float32, np.float64])
def test_arrays_of_numbers_are_read(tmp_path, kind):
    array = np.array([[1, 0, 1], [0, 1, 0]], kind)
    np.save(tmp_path / "a.npy", array)
    read = read_array(tmp_path / "a.npy", (None, 3))
    assert read.dtype == kind and np.array_equal(read, array)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300, -1e38])
def test_numbers_that_would_overflow_are_refused(tmp_path, value):
    np.save(tmp_path / "a.npy", np.array([0.0, value]))
    with pytest.raises(UserError, match="a.npy holds values that are not finite numbers, or of a size that"):
        read_array(tmp_path / "a.npy", (2,))
