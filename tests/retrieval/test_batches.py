"""Retrieval batches of a log, and those that a device of fixed shapes takes."""

import numpy as np

from inputs.batches import FILLED_ITEM, FILLED_LOG_Q, retrieval_batches
from inputs.ragged import Ragged


def test_a_short_batch_is_filled_up_with_rows_that_say_so(log):
    positives = log.interactions
    made = [
        retrieval_batches(log.space, positives, log.histories, 5, 64, seed=1, one_size=one) for one in (False, True)
    ]
    short = 0
    for k in range(len(made[0])):
        was, filled = (batches.batch(0, k) for batches in made)
        rows, more = len(was["item_position"]), 64 - len(was["item_position"])
        short += more > 0
        for name, value in was.items():
            now = filled[name]
            assert len(now) == 64, name
            if isinstance(value, Ragged):
                assert np.array_equal(now.values, value.values)
                assert now.lengths.tolist() == [*value.lengths, *[0] * more]
            else:
                fill = {"item_position": FILLED_ITEM, "log_q": np.float32(FILLED_LOG_Q)}.get(name, 0)
                assert now.dtype == value.dtype
                assert np.array_equal(now[:rows], value)
                assert (now[rows:] == fill).all()
    assert short == 1, "else nothing was tried"


def test_a_rank_may_have_nothing_but_what_fills_up(log):
    positives = log.interactions
    batches = retrieval_batches(log.space, positives, log.histories, 5, 64, seed=1, one_size=True)
    [k] = [k for k in range(len(batches)) if (batches.batch(0, k)["item_position"] < 0).any()]
    parts = [batches.batch(0, k, rank, 32)["item_position"] for rank in range(32)]
    assert np.array_equal(np.concatenate(parts), batches.batch(0, k)["item_position"])
    assert (parts[-1] == FILLED_ITEM).all()
