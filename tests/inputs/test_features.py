"""Fitted on training, applied everywhere: positions to model inputs."""

import math

import numpy as np
import pytest

from foundation.errors import UserError
from inputs.config import InputsConfig
from inputs.features import FeatureSpace
from inputs.interactions import Interactions
from inputs.ragged import Ragged
from inputs.schema import Positive
from inputs.splits import Split


@pytest.fixture
def fitted(make_dataset):
    dataset, parts = make_dataset()
    split = Split.by_share(dataset, 0.2, 0.2)
    space = FeatureSpace.fit(dataset, split, InputsConfig(format="simulated"))
    space.follow(Interactions.from_dataset(dataset, space, None))
    return dataset, split, space, parts


def _seen(events, split, column):
    times = events["timestamp"].to_numpy()
    return set(events[column].to_numpy()[times < split.train_end])


def test_only_what_training_saw_has_an_id_of_its_own(fitted):
    _, split, space, (users, items, events) = fitted
    for column, table, entities, first in (
        ("user_id", users, space.users, 1),
        ("item_id", items, space.items, 0),
    ):
        raw = table[column].to_numpy()
        positions = entities.position_of(table[column])
        assert positions.tolist() == list(range(first, len(raw) + first))
        inputs = (
            space.query_inputs(positions, Ragged.from_rows([[]] * len(raw)))
            if column == "user_id"
            else space.item_inputs(positions, 0)
        )
        known = inputs[column] > 0
        assert set(raw[known]) == _seen(events, split, column)
        assert len(set(inputs[column][known])) == known.sum()


def test_the_unknown_user_and_item(fitted):
    _, _, space, _ = fitted
    assert space.users.position_of(["999999", "no number", "12345678901234567890", "--5"]).tolist() == [0, 0, 0, 0]
    assert space.items.position_of([999_999]).tolist() == [-1]
    inputs = space.query_inputs(np.array([0]), Ragged.from_rows([[]]))
    assert inputs["user_id"].tolist() == [0]
    assert inputs["user_age"].tolist() == [0.0]


def test_values_first_seen_after_training_are_out_of_vocabulary(fitted):
    _, split, space, (_, items, events) = fitted
    seen_items = _seen(events, split, "item_id")
    seen_topics = {
        topic
        for item, topic in zip(items["item_id"].to_pylist(), items["topic"].to_pylist(), strict=True)
        if item in seen_items
    }
    ids = space.item_inputs(np.arange(items.num_rows), 0)["item_topic"]
    for topic, identifier in zip(items["topic"].to_pylist(), ids, strict=True):
        assert (identifier > 0) == (topic in seen_topics and topic is not None)


def test_a_history_is_looked_up_feature_by_feature(fitted):
    _, _, space, (_, items, _) = fitted
    histories = Ragged.from_rows([[3, 1], [], [7]])
    inputs = space.query_inputs(np.array([1, 2, 3]), histories)
    by_item = space.item_inputs(np.arange(items.num_rows), 0)
    assert inputs["history_item_id"].row(0).tolist() == [by_item["item_id"][3], by_item["item_id"][1]]
    assert inputs["history_topic"].row(2).tolist() == [by_item["item_topic"][7]]
    tags = by_item["item_tags"]
    assert inputs["history_tags"].row(0).tolist() == [*tags.row(3), *tags.row(1)]
    assert len(inputs["history_tags"].row(1)) == 0


def test_names_tables_and_kinds_are_those_of_the_inputs(fitted):
    _, _, space, _ = fitted
    inputs = space.query_inputs(np.array([1]), Ragged.from_rows([[0]]))
    assert inputs.keys() == space.query_features.keys()
    assert space.item_inputs(np.array([0]), 0).keys() == space.item_features.keys()
    assert space.query_features["history_item_id"].table == space.item_features["item_id"].table == "item_id"
    for specs, values in ((space.query_features, inputs), (space.item_features, space.item_inputs(np.array([0]), 0))):
        for name, spec in specs.items():
            assert isinstance(values[name], Ragged) == (spec.kind == "categories")
            if spec.kind != "number":
                flat = values[name].values if isinstance(values[name], Ragged) else values[name]
                assert flat.max(initial=0) < spec.vocabulary_size
    assert set(space.context_features) == {"context_position"}, "a logged column is no input"


def test_age_is_taken_at_the_time_asked(fitted):
    _, _, space, (_, items, _) = fitted
    published = items["published"].to_numpy()
    now = 10 * 86_400
    ages = space.item_inputs(np.arange(items.num_rows), now)["item_published_age"]
    assert ages == pytest.approx([math.log1p((now - t) / 86_400) for t in published], rel=1e-5)
    assert space.item_inputs(np.array([0]), 0)["item_published_age"].tolist() == [0.0], "not yet published: 0"


def test_numbers_are_standardised_on_training_users(fitted):
    _, split, space, (users, _, events) = fitted
    seen = np.isin(users["user_id"].to_numpy(), list(_seen(events, split, "user_id")))
    ages = users["age"].to_numpy().astype(float)
    expected = (ages - ages[seen].mean()) / ages[seen].std()
    got = space.query_inputs(np.arange(1, len(ages) + 1), Ragged.from_rows([[]] * len(ages)))["user_age"]
    assert got == pytest.approx(expected, abs=1e-5)


def test_saved_and_loaded_is_the_same(fitted, tmp_path):
    dataset, _, space, (_, _, events) = fitted
    space.save(tmp_path / "space")
    loaded = FeatureSpace.load(tmp_path / "space")
    loaded.follow(Interactions.from_dataset(dataset, loaded, None))
    histories = Ragged.from_rows([[1, 2], [3]])
    for one, other in (
        (space.query_inputs(np.array([1, 2]), histories), loaded.query_inputs(np.array([1, 2]), histories)),
        (space.item_inputs(np.arange(5), 77_777), loaded.item_inputs(np.arange(5), 77_777)),
        (space.context_inputs(events), loaded.context_inputs(events)),
    ):
        assert one.keys() == other.keys()
        for name in one:
            left, right = (v.values if isinstance(v, Ragged) else v for v in (one[name], other[name]))
            assert np.array_equal(left, right)
    assert loaded.query_features == space.query_features
    assert loaded.label_means == space.label_means
    assert loaded.item_words(4) == space.item_words(4)


def test_a_damaged_space_is_named(fitted, tmp_path):
    _, _, space, _ = fitted
    space.save(tmp_path / "space")
    (tmp_path / "space" / "columns.npz").write_bytes(b"no")
    with pytest.raises(UserError, match="this feature space is damaged"):
        FeatureSpace.load(tmp_path / "space")


def test_hashed_features_need_no_vocabulary(make_dataset):
    dataset, _ = make_dataset()
    split = Split.by_share(dataset, 0.2, 0.2)
    space = FeatureSpace.fit(dataset, split, InputsConfig(format="simulated", hashed={"item_id": 7, "tags": 3}))
    space.follow(Interactions.from_dataset(dataset, space, None))
    assert space.item_features["item_id"].vocabulary_size == 8
    assert space.item_features["item_tags"].vocabulary_size == 4
    ids = space.item_inputs(np.arange(len(space.items)), 0)["item_id"]
    assert ids.min() >= 1
    assert len(set(ids)) > 3
    with pytest.raises(UserError, match=r"no categorical feature 'tag'.*did you mean 'tags'"):
        FeatureSpace.fit(dataset, split, InputsConfig(format="simulated", hashed={"tag": 3}))


def test_positives_follow_the_label(make_dataset):
    dataset, (_, _, events) = make_dataset()
    split = Split.by_share(dataset, 0.2, 0.2)
    space = FeatureSpace.fit(dataset, split, InputsConfig(format="simulated"))
    assert len(Interactions.from_dataset(dataset, space, None)) == int(np.nansum(events["click"].to_numpy()))
    seconds = events["seconds"].fill_null(0).to_numpy()
    long = Interactions.from_dataset(dataset, space, Positive(label="seconds", at_least=30))
    assert len(long) == (seconds >= 30).sum()
    with pytest.raises(UserError, match="no label 'clicks' in the log; did you mean 'click'"):
        Interactions.from_dataset(dataset, space, Positive(label="clicks"))
    with pytest.raises(UserError, match="no event has seconds >= 1000"):
        Interactions.from_dataset(dataset, space, Positive(label="seconds", at_least=1000))


def test_the_split_is_global_and_strict(make_dataset):
    dataset, (_, _, events) = make_dataset()
    split = Split.by_share(dataset, 0.2, 0.1)
    times = events["timestamp"].to_numpy()
    assert (times < split.train_end).mean() == pytest.approx(0.7, abs=0.02)
    assert (times >= split.validation_end).mean() == pytest.approx(0.1, abs=0.02)
    assert split.end == times.max() + 1


def test_a_split_may_have_no_validation_period(make_dataset):
    dataset, (_, _, events) = make_dataset()
    split = Split.by_share(dataset, 0, 0.2)
    with_one = Split.by_share(dataset, 0.2, 0.2)
    assert split.train_end == split.validation_end == with_one.validation_end
    assert (with_one.has_validation, split.has_validation) == (True, False)
    space = FeatureSpace.fit(dataset, split, InputsConfig(format="simulated"))
    ids = space.item_features["item_id"].vocabulary_size
    assert ids == len(_seen(events, split, "item_id")) + 1
