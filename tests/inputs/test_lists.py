"""Whole lists of a period, gathered in any order, whatever the row groups."""

import numpy as np
import pytest

import inputs.dataset as dataset_module
from foundation.errors import UserError
from inputs.batches import ranking_batches
from inputs.config import InputsConfig
from inputs.features import FeatureSpace
from inputs.histories import Histories
from inputs.interactions import Interactions
from inputs.lists import PeriodLists
from inputs.sittings import list_order, sittings
from inputs.splits import Split


@pytest.fixture
def opened(make_dataset, monkeypatch):
    monkeypatch.setattr(dataset_module, "ROWS_PER_GROUP", 40)
    dataset, (_, _, events) = make_dataset()
    split = Split.by_share(dataset, 0.2, 0.2)
    space = FeatureSpace.fit(dataset, split, InputsConfig(format="simulated"))
    return dataset, split, space, events


def test_lists_come_as_asked(opened):
    dataset, split, space, events = opened
    lists = PeriodLists(dataset, space, 0, split.train_end)
    inside = events["timestamp"].to_numpy() < split.train_end
    assert lists.rows == inside.sum()
    asked = np.random.default_rng(0).permutation(len(lists))[:50]
    rows = lists.gather(asked)
    for place, number in enumerate(asked):  # training comes first, so list numbers are list ids here
        where = events["list_id"].to_numpy() == number
        assert rows["time"].row(place).tolist() == events["timestamp"].to_numpy()[where].tolist()
        assert space.items.raw_ids(rows["item"].row(place)) == events["item_id"].to_numpy()[where].tolist()
        assert rows["label_click"].row(place).tolist() == events["click"].to_numpy()[where].tolist()
    seconds = rows["label_seconds"].values
    assert np.array_equal(np.isnan(seconds), rows["label_click"].values == 0), "what the log does not say is NaN"


def test_a_ranking_batch_is_whole_lists(opened):
    dataset, split, space, _ = opened
    lists = PeriodLists(dataset, space, 0, split.train_end)
    positives = Interactions.from_dataset(dataset, space, None)
    space.follow(positives)
    histories = Histories(positives)
    batches = ranking_batches(space, lists, histories, 10, rows_per_batch=100, seed=1)
    total = 0
    for batch in batches.iterate(0):
        total += len(batch["item_id"])
        splits = batch["list_row_splits"]
        assert splits[-1] == len(batch["item_id"]) == len(batch["label_click"]) == len(batch["context_position"])
        assert len(batch["user_id"]) == len(splits) - 1
    assert total == lists.rows


def test_an_empty_period_is_said(opened):
    dataset, _, space, _ = opened
    with pytest.raises(UserError, match="no whole list lies in the period"):
        PeriodLists(dataset, space, 0, 1)


def test_sittings_end_at_a_long_pause_or_at_twenty():
    users = np.array([1] * 45 + [2, 2, 2])
    times = np.concatenate([np.arange(45), [0, 3600, 7201]])
    lists = sittings(users, times)
    _, lengths = np.unique(lists, return_counts=True)
    assert lengths.tolist() == [20, 20, 5, 2, 1]


def test_lists_are_written_by_their_first_row():
    lists, times = np.array([7, 3, 7, 3, 9]), np.array([5, 1, 2, 9, 2])
    order, numbers = list_order(lists, times)
    assert order.tolist() == [1, 3, 2, 0, 4]
    assert numbers.tolist() == [0, 0, 1, 1, 2]
