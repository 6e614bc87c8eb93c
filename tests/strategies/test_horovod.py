"""What is Horovod's alone: how its absence is told. Its exchanges are in test_communicators.py."""

import sys

import pytest

from foundation.errors import UserError
from foundation.tf import tf
from strategies import horovod
from strategies.horovod import HorovodStrategy


def test_without_horovod_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "horovod.tensorflow", None)
    with pytest.raises(UserError, match=r"not installed[\s\S]*make horovod"):
        HorovodStrategy()


def test_a_horovod_for_another_tensorflow_is_said(monkeypatch):
    def fail(name):
        raise tf.errors.NotFoundError(None, None, "mpi_lib.so: undefined symbol: _ZN10tensorflow")

    monkeypatch.setattr(horovod.importlib, "import_module", fail)
    with pytest.raises(UserError, match=r"does not load \(mpi_lib.so[\s\S]*make horovod"):
        HorovodStrategy()
