"""Numpy batches become tensors with nothing changed."""

import numpy as np

from foundation.tensors import to_tensors
from inputs.ragged import Ragged


def test_arrays_and_ragged_values_keep_values_and_dtypes():
    batch = {"ids": np.array([1, 2]), "history": Ragged.from_rows([[3], [], [4, 5]]), "x": np.float32([0.5])}
    tensors = to_tensors(batch)
    assert tensors["ids"].numpy().tolist() == [1, 2]
    assert tensors["history"].to_list() == [[3], [], [4, 5]]
    assert tensors["x"].dtype.name == "float32"
