"""UnifiedEmbedding: its hash functions to the bit, their spread, and the layer against plain numpy."""

import json
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings import SGD, TableConfig
from embeddings.compressed import HashedFeature, UnifiedEmbedding
from embeddings.compressed.hashed import hash_key, hashed
from foundation.tf import tf

MASK = (1 << 64) - 1
TABLE = TableConfig("shared", vocabulary_size=29, dim=3, optimizer=SGD(0.5), seed=5, initializer_scale=1.0)


def _splitmix64(counter):
    mixed = (counter + 0x9E3779B97F4A7C15) & MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
    return mixed ^ (mixed >> 31)


def _bucket(key, identifier, number, buckets):
    return _splitmix64((_splitmix64((key + identifier) & MASK) + number) & MASK) % buckets


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5),
    st.integers(0, MASK),
    st.integers(1, 2**62),
)
def test_the_hash_equals_integer_arithmetic(ids, key, buckets):
    got = hashed(tf.constant(ids, tf.int64), key, 3, buckets).numpy()
    assert got.tolist() == [[_bucket(key, identifier, h, buckets) for h in range(3)] for identifier in ids]


def test_the_hash_is_the_same_in_every_process_and_release():
    ids = tf.constant([0, 1, -1, 2**63 - 1, -(2**63)], tf.int64)
    key = hash_key(TABLE, "video")
    assert key == 7231860555832236510
    assert hashed(ids, key, 2, 1000).numpy().tolist() == [[795, 592], [354, 124], [64, 729], [963, 853], [446, 699]]


def test_each_seed_table_and_feature_has_hash_functions_of_its_own():
    others = [TABLE, TableConfig("shared", 29, 3, seed=6), TableConfig("other", 29, 3, seed=5)]
    keys = {hash_key(table, feature) for table in others for feature in ("a", "b")}
    assert len(keys) == 6


@pytest.mark.parametrize("start", [0, -500_000, 2**62])
def test_buckets_are_uniform_and_hash_functions_independent(start):
    ids = tf.range(start, start + 100_000, dtype=tf.int64)
    buckets = hashed(ids, hash_key(TABLE, "video"), 3, 16).numpy()
    columns = [buckets[:, h] for h in range(3)]
    columns.append(hashed(ids, hash_key(TABLE, "creator"), 1, 16).numpy()[:, 0])
    pairs = [one * 16 + other for one, other in combinations(columns, 2)]
    for values, cells in [(column, 16) for column in columns] + [(pair, 256) for pair in pairs]:
        expected = len(values) / cells
        chi_square = ((np.bincount(values, minlength=cells) - expected) ** 2 / expected).sum()
        freedom = cells - 1
        assert abs(chi_square - freedom) < 5 * np.sqrt(2 * freedom)


def _composed(layer, name, num_hashes):
    """[ids 0..11, num_hashes * dim] float64: the table that is not held."""
    rows, key = layer.table("shared").numpy().astype(float), hash_key(TABLE, name)
    return np.array([np.concatenate([rows[_bucket(key, i, h, 29)] for h in range(num_hashes)]) for i in range(12)])


@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("form", ["ragged", "sparse", "dense"])
def test_a_step_equals_the_reference(reference, forms, step, form, weighted, combiner):
    rows = forms.bags[form]
    weights = forms.weights_of(rows) if weighted else None
    features = {"video": HashedFeature(2, combiner), "creator": HashedFeature(3, combiner)}
    layer = UnifiedEmbedding(features, TABLE)
    held = layer.table("shared").numpy().astype(float)
    draw = np.random.default_rng(0)
    upstream, gradient, wanted = {}, np.zeros_like(held), {}
    for name, feature in features.items():
        k = feature.num_hashes
        wanted[name], shares = reference.combined(_composed(layer, name, k), rows, weights, combiner)
        upstream[name] = draw.normal(size=wanted[name].shape).astype(np.float32)
        for place, ids in enumerate(rows):
            for identifier, share in zip(ids, shares[place], strict=True):
                for h, part in enumerate(np.split(upstream[name][place], k)):
                    gradient[_bucket(hash_key(TABLE, name), identifier, h, 29)] += share * part
    value = forms.made(form, rows, weights)
    outputs, _ = step(layer, dict.fromkeys(features, value), upstream)
    for name in features:
        assert outputs[name].numpy() == pytest.approx(wanted[name], abs=1e-5)
    assert layer.table("shared").numpy() == pytest.approx(held - 0.5 * gradient, abs=1e-5)


def test_one_vector_per_id_keeps_the_shape_of_the_ids():
    layer = UnifiedEmbedding({"video": HashedFeature(2, None)}, TABLE)
    composed = _composed(layer, "video", 2)
    ragged = tf.ragged.constant([[1, 10], [], [3]], tf.int64)
    for value in (ragged, ragged.to_sparse()):
        output = layer({"video": value})["video"]
        assert output.row_lengths().numpy().tolist() == [2, 0, 1]
        assert output.values.numpy() == pytest.approx(composed[[1, 10, 3]])
    dense = layer({"video": np.array([[1, 2, 3], [4, 5, 6]], np.uint8)})["video"]
    assert dense.numpy() == pytest.approx(composed[[[1, 2, 3], [4, 5, 6]]])
    assert layer({"video": tf.zeros((0,), tf.int64)})["video"].shape == (0, 6)


def test_any_64_bit_id_of_any_dtype():
    layer = UnifiedEmbedding({"video": HashedFeature(2, "sum")}, TABLE)
    narrow = layer({"video": tf.constant([-1, 7], tf.int32)})["video"]
    wide = layer({"video": tf.constant([-1, 7], tf.int64)})["video"]
    unsigned = layer({"video": tf.constant([MASK, 7], tf.uint64)})["video"]
    assert np.array_equal(narrow, wide)
    assert np.array_equal(unsigned, wide)


def test_bad_input_is_named():
    layer = UnifiedEmbedding({"video": HashedFeature()}, TABLE)
    with pytest.raises(ValueError, match="num_hashes is 0; at least 1 is wanted"):
        HashedFeature(0)
    with pytest.raises(ValueError, match="combiner is 'max'"):
        UnifiedEmbedding({"video": HashedFeature(2, "max")}, TABLE)
    with pytest.raises(ValueError, match="vocabulary_size is None; a compressed embedding's tables are static"):
        UnifiedEmbedding({"video": HashedFeature()}, TableConfig("t", None, 3))
    with pytest.raises(ValueError, match="at least one feature"):
        UnifiedEmbedding({}, TABLE)
    with pytest.raises(ValueError, match=r"no feature \['c'\]; the layer has \['video'\]"):
        layer({"c": [1]})
    with pytest.raises(TypeError, match="'video': ids are float32; an integer dtype is wanted"):
        layer({"video": tf.constant([1.0])})
    with pytest.raises(ValueError, match=r"feature 'video.*ids are \[B\], \[B, L\], ragged or sparse"):
        layer({"video": tf.zeros((1, 1, 1), tf.int64)})
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"feature video.*weights must be finite"):
        layer({"video": (tf.constant([[1]]), tf.constant([[float("nan")]]))})


def test_a_config_is_plain_and_makes_the_same_layer():
    layer = UnifiedEmbedding({"video": HashedFeature(3, "sqrtn"), "creator": HashedFeature(1, None)}, TABLE)
    copy = UnifiedEmbedding.from_config(json.loads(json.dumps(layer.get_config())))
    assert copy.get_config() == layer.get_config()
    assert np.array_equal(copy.table("shared"), layer.table("shared"))


def test_a_model_is_fitted_saved_and_loaded(saved_and_loaded, tmp_path):
    layer = UnifiedEmbedding({"video": HashedFeature(2, "mean"), "creator": HashedFeature(1, "sum")}, TABLE)
    inputs = {"video": np.array([[1, -2], [3, 4], [5, 6], [7, 2**60]]), "creator": np.array([1, 2, 3, 1])}
    saved_and_loaded(layer, inputs, 2 * 3 + 1 * 3, tmp_path)
