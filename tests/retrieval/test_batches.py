"""Retrieval batches of a log, and those that a device of fixed shapes takes."""

import numpy as np
import pytest

from inputs.batches import FILLED_ITEM, FILLED_LOG_Q, retrieval_batches
from inputs.ragged import Ragged, joined
from inputs.sampling import NEVER, NOT_YET, Beside


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


BESIDE = Beside(uniform=9, popular=4, known=True)


def _beside(log, one_size=False, beside=BESIDE, size=64):
    return retrieval_batches(
        log.space, log.interactions, log.histories, 5, size, seed=1, one_size=one_size, beside=beside
    )


def _last_short(batches):
    return next(k for k in range(len(batches)) if len(batches.batch(0, k)["item_position"]) < 64)


@pytest.mark.parametrize("one_size", [False, True])
@pytest.mark.parametrize("ranks", [2, 3, 32])
def test_ranks_share_out_what_stands_beside_the_positives(log, ranks, one_size):
    batches = _beside(log, one_size)
    for k in (0, _last_short(_beside(log))):
        whole = batches.batch(1, k)
        parts = [batches.batch(1, k, rank, ranks) for rank in range(ranks)]
        rows = len(whole["item_position"])
        for name, value in whole.items():
            if len(value) in (rows, 13):
                together = joined([part[name] for part in parts])
            else:  # item inputs: positives, then what is sampled
                own = [len(part["item_position"]) for part in parts]
                pieces = [(part[name], count) for part, count in zip(parts, own, strict=True)]
                together = np.concatenate([each[:n] for each, n in pieces] + [each[n:] for each, n in pieces])
            if isinstance(value, Ragged):
                assert np.array_equal(together.row_splits, value.row_splits), name
                together, value = together.values, value.values
            np.testing.assert_array_equal(together, value, err_msg=name)


def test_sampled_items_stand_behind_the_positives_as_of_their_rows_times(log):
    batches, plain = _beside(log), _beside(log, beside=None)
    batch, was = batches.batch(0, 3), plain.batch(0, 3)
    items, rows = batch["sampled_position"], len(was["item_position"])
    assert len(items) == 13
    for name, value in was.items():
        now = batch[name]
        if not isinstance(value, Ragged):
            np.testing.assert_array_equal(now[:rows], value, err_msg=name)
    assert batch["item_id"][rows:].tolist() == log.space.item_inputs(items, 0)["item_id"].tolist()
    trends = batch["item_positives"][rows:]
    assert len(trends) == 13
    assert (trends >= 0).all()


def test_what_is_told_of_sampled_items_is_what_is_told_of_positives(log):
    batch = _beside(log).batch(0, 2)
    of_positives = dict(zip(batch["item_position"], zip(batch["log_q"], batch["log_draws"], strict=True), strict=True))
    shared = [
        (of_positives[item], told)
        for item, *told in zip(
            batch["sampled_position"], batch["sampled_log_q"], batch["sampled_log_draws"], strict=True
        )
        if item in of_positives
    ]
    assert shared
    for one, other in shared:
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_a_row_tells_its_users_training_positives(log):
    batch = _beside(log).batch(0, 0)
    known, items = batch["known_items"], batch["item_position"]
    assert all(item in known.row(row) for row, item in enumerate(items))


def test_the_whole_catalogue_stands_beside_a_batch_once(log):
    batch = _beside(log, beside=Beside(catalogue=True)).batch(0, 0)
    there = batch["sampled_position"]
    assert len(there) == len(log.space.items)
    assert sorted({*there} - {NOT_YET}) == sorted(there[there != NOT_YET])
    assert len(batch["item_id"]) == len(there) + len(batch["item_position"])
    assert (batch["sampled_log_draws"] == NEVER).all()
