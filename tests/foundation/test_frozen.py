"""Memory read as it was, from a child that holds it."""

import os
import signal

import numpy as np
import pytest

from foundation.errors import UserError
from foundation.frozen import FrozenMemory


def _rows(memory, array, numbers):
    where = array.__array_interface__["data"][0]
    return memory.rows(where, len(array), array.dtype, array.shape[1:], np.array(numbers, np.int64))


def test_what_is_read_is_of_the_moment_it_was_frozen():
    array = np.random.default_rng(0).normal(size=(1000, 16)).astype(np.float32)
    plain = np.arange(50)
    was = array.copy()
    with FrozenMemory(1 << 12) as memory:  # so small that rows come in several turns
        array[:] = 0
        plain[:] = -1
        numbers = np.random.default_rng(1).integers(0, 1000, 700)
        assert np.array_equal(_rows(memory, array, numbers), was[numbers])
        assert np.array_equal(_rows(memory, plain, [49, 0, 7]), [49, 0, 7])
        assert _rows(memory, array, []).shape == (0, 16)


def test_a_child_that_is_killed_is_told_of():
    array = np.zeros((10, 2))
    with FrozenMemory(1 << 12) as memory:
        os.kill(memory._child, signal.SIGKILL)
        os.waitid(os.P_PID, memory._child, os.WEXITED | os.WNOWAIT)
        with pytest.raises(UserError, match="was ended from outside"):
            _rows(memory, array, [1])


def test_the_child_ends_with_it_and_outlives_signals_meant_for_all():
    array = np.ones((10, 2))
    with FrozenMemory(1 << 12) as memory:
        child = memory._child
        _rows(memory, array, [0])
        os.kill(child, signal.SIGTERM)
        assert np.array_equal(_rows(memory, array, [1]), [[1, 1]])
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
