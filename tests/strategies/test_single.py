"""One rank: every exchange is an identity."""

import numpy as np
import pytest

from foundation.errors import UserError
from foundation.tf import tf
from strategies import create_strategy


def test_every_exchange_is_an_identity():
    strategy = create_strategy("single")
    communicator = strategy.communicator
    rows = tf.reshape(tf.range(6.0), (3, 2))
    received = communicator.all_to_all(rows, tf.constant([[3]]))
    for value in (received, communicator.all_gather(rows), communicator.all_reduce(rows), communicator.broadcast(rows)):
        assert np.array_equal(value, rows)
    assert (communicator.rank, communicator.size, strategy.is_chief) == (0, 1, True)


def test_rows_that_belong_to_nobody_are_an_error():
    with pytest.raises(tf.errors.InvalidArgumentError, match="do not cover"):
        create_strategy("single").communicator.all_to_all(tf.zeros((3, 2)), tf.constant([[2]]))


def test_a_root_that_is_not_there_is_an_error():
    with pytest.raises(ValueError, match="the only rank is 0"):
        create_strategy("single").communicator.broadcast(tf.zeros(1), root=1)


def test_steps_run_on_batches_as_they_come():
    strategy = create_strategy("single")
    with strategy.scope():
        total = tf.Variable(0.0)
    for batch in strategy.distribute([[1.0, 2.0]]):
        strategy.run(total.assign_add, batch)
    strategy.barrier()
    assert total.numpy() == 3.0
    assert strategy.topology.ranks == 1


def test_an_unknown_strategy_suggests_the_nearest():
    with pytest.raises(UserError, match="no strategy 'singel'; did you mean 'single'"):
        create_strategy("singel")
