"""Global batch k is a pure function of (seed, epoch, k)."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import inputs.order as order_module
from inputs.batches import Batches
from inputs.order import Consecutive, EpochOrder, OfOneStretch

sizes = st.lists(st.integers(0, 40), min_size=1, max_size=60).map(lambda s: np.array(s, np.int64))


@settings(deadline=None, max_examples=60)
@given(sizes, st.integers(0, 100), st.integers(0, 5))
def test_every_unit_once_and_any_place_on_its_own(block_sizes, seed, epoch):
    order = EpochOrder(block_sizes, seed, epoch)
    whole = order.units(0, len(order))
    assert sorted(whole) == list(range(block_sizes.sum()))
    again = EpochOrder(block_sizes, seed, epoch)
    for start in range(len(order) - 3, 0, -7):
        assert np.array_equal(again.units(start, start + 5), whole[start : start + 5])


def test_epochs_and_seeds_differ():
    orders = [EpochOrder(np.array([500]), seed, epoch).units(0, 500) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])


def test_few_blocks_are_open_at_a_time():
    order = EpochOrder(np.full(100, 50), seed=0, epoch=0)
    touched = order.units(0, 16 * 50) // 50
    assert len(np.unique(touched)) == order_module.WINDOW_BLOCKS


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.integers(1, 80), st.integers(1, 20), st.integers(0, 9))
def test_batches_of_one_stretch_of_time(units, stretch, size, seed):
    order = OfOneStretch(units, stretch, size, seed, epoch=1)
    batches = [order.batch(k) for k in range(len(order))]
    assert sorted(np.concatenate(batches)) == list(range(units))
    assert all(len(set(batch // stretch)) == 1 and len(batch) <= size for batch in batches)
    assert np.array_equal(OfOneStretch(units, stretch, size, seed, epoch=1).batch(len(order) - 1), batches[-1])


def test_stretches_are_mixed_over_the_epoch():
    order = OfOneStretch(10_000, 500, 100, seed=0, epoch=0)
    times = [order.batch(k).mean() for k in range(len(order))]
    assert abs(np.corrcoef(times, np.arange(len(order)))[0, 1]) < 0.3


def _batches(make=None, size=None) -> Batches:
    return Batches(
        lambda epoch: Consecutive(EpochOrder(np.array([103]), 3, epoch), 10),
        make or (lambda part: {"unit": part.units}),
        103,
        size,
    )


def test_batches_cover_an_epoch_and_the_last_is_smaller():
    batches = _batches()
    taken = [batch["unit"] for batch in batches.iterate(epoch=0)]
    assert [len(units) for units in taken] == [10] * 10 + [3]
    assert sorted(np.concatenate(taken)) == list(range(103))


def test_starting_in_the_middle_gives_the_same_batches():
    batches = _batches()
    whole = [batch["unit"].tolist() for batch in batches.iterate(epoch=2)]
    rest = [batch["unit"].tolist() for batch in _batches().iterate(epoch=2, k=6)]
    assert rest == whole[6:]


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_ranks_together_hold_the_global_batch(world_size):
    batches = _batches()
    for k in range(len(batches)):
        slices = [batches.batch(1, k, rank, world_size)["unit"] for rank in range(world_size)]
        assert np.array_equal(np.concatenate(slices), batches.batch(1, k)["unit"])


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_batches_of_one_size_are_filled_up_behind_their_units(world_size):
    batches, as_they_are = _batches(lambda part: {"unit": part.units, "rows": part.rows}, size=10), _batches()
    for k in range(len(batches)):
        slices = [batches.batch(1, k, rank, world_size) for rank in range(world_size)]
        assert {each["rows"] for each in slices} == {10 // world_size}
        assert np.array_equal(np.concatenate([each["unit"] for each in slices]), as_they_are.batch(1, k)["unit"])


def test_an_error_in_the_reading_thread_reaches_the_caller():
    def make(part):
        raise ValueError("torn")

    with pytest.raises(ValueError, match="torn"):
        next(_batches(make).iterate(0))


def test_closing_lets_a_waiting_reader_go():
    gate = threading.Event()

    def make(part):
        gate.wait()
        return {"unit": part.units}

    source = _batches(make).iterate(0)
    left = []
    reader = threading.Thread(target=lambda: left.extend(source))
    reader.start()
    threading.Timer(0.3, gate.set).start()  # the batch being made is finished; the reader waits meanwhile
    source.close()
    reader.join(timeout=10)
    assert not reader.is_alive()
    assert left == []


def test_closing_early_ends_the_thread():
    iterator = _batches().iterate(0)
    next(iterator)
    iterator.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "headrace-batches"]
