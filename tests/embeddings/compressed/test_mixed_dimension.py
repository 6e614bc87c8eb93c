"""MixedDimensionEmbedding against plain numpy: lookups, the step of tables and projections, widths, saving."""

import json

import numpy as np
import pytest

from embeddings import SGD, FeatureConfig, TableConfig
from embeddings.compressed import Block, MixedDimensionEmbedding, dims_by_popularity
from foundation.tf import keras, tf

TABLE = TableConfig("video", vocabulary_size=12, dim=4, optimizer=SGD(0.5), initializer_scale=1.0)
BLOCKS = [Block(2, 4), Block(3, 2), Block(7, 1)]
FIRSTS = [0, 2, 5]


def _layer(**combiners):
    features = {name: FeatureConfig(TABLE, combiner) for name, combiner in combiners.items()}
    return MixedDimensionEmbedding(features, {"video": BLOCKS})


def _parts(layer):
    """(rows, projections) of each block."""
    rows = [layer.table(f"video/block_{i}").numpy().astype(float) for i in range(3)]
    projections = [layer.projection("video", i) for i in range(3)]
    return rows, [np.eye(4) if p is None else p.numpy().astype(float) for p in projections]


def _composed(layer):
    """[12, 4]: the table that is not held."""
    return np.concatenate([rows @ projection for rows, projection in zip(*_parts(layer), strict=True)])


@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("form", ["ragged", "sparse", "dense"])
def test_a_step_equals_the_reference(reference, forms, step, form, weighted, combiner):
    bags = forms.bags[form]
    weights = forms.weights_of(bags) if weighted else None
    layer = _layer(v=combiner)
    rows, projections = _parts(layer)
    wanted, shares = reference.combined(_composed(layer), bags, weights, combiner)
    upstream = np.random.default_rng(0).normal(size=wanted.shape).astype(np.float32)
    of_rows, of_projections = [np.zeros_like(r) for r in rows], [np.zeros_like(p) for p in projections]
    for place, ids in enumerate(bags):
        for identifier, share in zip(ids, shares[place], strict=True):
            i = int(np.searchsorted(FIRSTS, identifier, side="right")) - 1
            row, above = identifier - FIRSTS[i], share * upstream[place]
            of_rows[i][row] += projections[i] @ above
            of_projections[i] += np.outer(rows[i][row], above)
    outputs, gradients = step(layer, {"v": forms.made(form, bags, weights)}, {"v": upstream})
    assert outputs["v"].numpy() == pytest.approx(wanted, abs=1e-5)
    for after, before, gradient in zip(_parts(layer)[0], rows, of_rows, strict=True):
        assert after == pytest.approx(before - 0.5 * gradient, abs=1e-5)
    assert list(gradients) == ["video/block_1/projection:0", "video/block_2/projection:0"], "the base block has none"
    for got, gradient in zip(gradients.values(), of_projections[1:], strict=True):
        assert got == pytest.approx(gradient, abs=1e-5)


def test_one_vector_per_id_and_one_id_per_example(step):
    layer = _layer(sequence=None, one="mean")
    composed = _composed(layer)
    ragged = tf.ragged.constant([[1, 11], [], [3]], tf.int32)
    for value in (ragged, ragged.to_sparse()):
        output = layer({"sequence": value})["sequence"]
        assert output.row_lengths().numpy().tolist() == [2, 0, 1]
        assert output.values.numpy() == pytest.approx(composed[[1, 11, 3]])
    outputs = layer({"sequence": np.array([[11, 2, 3], [4, 5, 0]]), "one": np.array([11, 0], np.uint8)})
    assert outputs["sequence"].numpy() == pytest.approx(composed[[[11, 2, 3], [4, 5, 0]]])
    assert outputs["sequence"].shape == (2, 3, 4)
    assert outputs["one"].numpy() == pytest.approx(composed[[11, 0]])
    assert layer({"one": tf.zeros((0,), tf.int64)})["one"].shape == (0, 4)
    rows, projections = _parts(layer)
    upstream = np.arange(8, dtype=np.float32).reshape(2, 4)
    step(layer, {"one": tf.constant([11, 0])}, {"one": upstream})
    after, _ = _parts(layer)
    assert after[0][0] == pytest.approx(rows[0][0] - 0.5 * upstream[1], abs=1e-5)
    assert after[2][6] == pytest.approx(rows[2][6] - 0.5 * projections[2] @ upstream[0], abs=1e-5)
    assert np.array_equal(after[1], rows[1]), "no id of the block was looked up"


def test_weights_get_their_gradient():
    layer = _layer(v="mean")
    composed = _composed(layer)
    weights = tf.Variable([[1.0, 3.0]])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer({"v": (tf.constant([[1, 11]]), weights)})["v"])
    one, other = composed[1].sum(), composed[11].sum()
    wanted = [[(one - (one + 3 * other) / 4) / 4, (other - (one + 3 * other) / 4) / 4]]
    assert tape.gradient(loss, weights).numpy() == pytest.approx(np.array(wanted), abs=1e-5)


def test_a_vector_begins_with_the_variance_of_a_plain_table():
    table = TableConfig("t", vocabulary_size=6000, dim=64, initializer_scale=0.3)
    blocks = {"t": [Block(2000, 64), Block(2000, 32), Block(2000, 16)]}
    layer = MixedDimensionEmbedding({"a": FeatureConfig(table, None)}, blocks)
    vectors = layer({"a": np.arange(6000)})["a"].numpy()
    for block in np.split(vectors, 3):
        assert block.var() == pytest.approx(0.3**2 / 3, rel=0.1)
    again = MixedDimensionEmbedding({"a": FeatureConfig(table, None)}, blocks)
    assert np.array_equal(again.projection("t", 1), layer.projection("t", 1)), "of the seed and the names alone"


def test_widths_follow_the_power_law():
    sizes = [10, 100, 1000]
    counts = np.repeat([1000.0, 62.5, 1.0], sizes)
    assert dims_by_popularity(counts, sizes, 64, 0.0) == [64, 64, 64]
    assert dims_by_popularity(counts, sizes, 64, 0.5) == [64, 16, 2]
    assert dims_by_popularity(counts, sizes, 64, 1.0) == [64, 4, 1]
    assert dims_by_popularity(counts, sizes, 48, 0.0) == [48, 48, 48], "the base need not be a power of two"
    assert dims_by_popularity([3, 0, 0], [1, 2], 8, 0.3) == [8, 1]
    assert dims_by_popularity([5, 6, 1], [2, 1], 8, 0.3)[0] == 8, "order within a block does not matter"
    widths = dims_by_popularity(1 / np.arange(1, 1001), [100, 300, 600], 64, 0.4)
    MixedDimensionEmbedding(
        {"a": FeatureConfig(TableConfig("t", 1000, 64))},
        {"t": [Block(size, dim) for size, dim in zip([100, 300, 600], widths, strict=True)]},
    )


@pytest.mark.parametrize(
    ("counts", "sizes", "base_dim", "alpha", "message"),
    [
        ([2, 1], [1, 1], 8, 1.5, r"alpha is 1.5; it lies in \[0, 1\]"),
        ([2, 1], [1, 1], 0, 0.3, "base_dim is 0; at least 1"),
        ([2, 1], [1], 8, 0.3, r"block_sizes are \[1\]; sizes of at least 1 are wanted, 2 in all"),
        ([2, 1], [], 8, 0.3, r"block_sizes are \[\]"),
        ([2, 1], [2, 0], 8, 0.3, r"block_sizes are \[2, 0\]"),
        ([0, 0], [1, 1], 8, 0.3, "those of the first block not all 0"),
        ([2, -1], [1, 1], 8, 0.3, "counts are not negative"),
        ([1, 2], [1, 1], 8, 0.3, "these rise from one block to the next"),
    ],
)
def test_bad_counts_are_named(counts, sizes, base_dim, alpha, message):
    with pytest.raises(ValueError, match=message):
        dims_by_popularity(counts, sizes, base_dim, alpha)


@pytest.mark.parametrize("ids", [[12], [-1]])
@pytest.mark.parametrize("compiled", [False, True])
def test_an_id_outside_its_vocabulary_names_the_feature(ids, compiled):
    layer = _layer(watched="sum")
    call = tf.function(layer) if compiled else layer
    with pytest.raises(tf.errors.InvalidArgumentError, match="feature watched: ids outside its vocabulary, 0 to 11"):
        call({"watched": tf.constant(ids)})


def test_bad_blocks_and_inputs_are_named():
    def made(*blocks):
        return MixedDimensionEmbedding({"v": FeatureConfig(TABLE)}, {"video": blocks})

    for blocks in ((), (Block(11, 4),), (Block(12, 4), Block(0, 2))):
        with pytest.raises(ValueError, match=r"'video': its \d blocks hold \d+ ids; .* 12 ids in all"):
            made(*blocks)
    for dims in ([2, 4], [8, 4], [4, 0]):
        with pytest.raises(ValueError, match="widths in 1 to 4 that do not grow are wanted"):
            made(*(Block(6, dim) for dim in dims))
    with pytest.raises(ValueError, match=r"given for the tables \['vidoe'\]; the features' tables are \['video'\]"):
        MixedDimensionEmbedding({"v": FeatureConfig(TABLE)}, {"vidoe": BLOCKS})
    with pytest.raises(ValueError, match="vocabulary_size is None; a compressed embedding's tables are static"):
        MixedDimensionEmbedding({"v": FeatureConfig(TableConfig("t", None, 4))}, {"t": [Block(9, 4)]})
    with pytest.raises(ValueError, match="two different tables are named 'video'"):
        MixedDimensionEmbedding(
            {"v": FeatureConfig(TABLE), "w": FeatureConfig(TableConfig("video", 12, 8))}, {"video": BLOCKS}
        )
    with pytest.raises(TypeError, match="'v': ids are float32; an integer dtype is wanted"):
        _layer(v="sum")({"v": tf.constant([1.0])})
    with pytest.raises(ValueError, match="feature 'v': per-sample weights need a combiner"):
        _layer(v=None)({"v": ([[1]], [[1.0]])})
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"feature v.*weights must be finite"):
        _layer(v="mean")({"v": ([[1]], [[float("inf")]])})


def test_a_config_is_plain_and_makes_the_same_layer():
    layer = _layer(a="sum", b=None)
    copy = MixedDimensionEmbedding.from_config(json.loads(json.dumps(layer.get_config())))
    assert copy.get_config() == layer.get_config()
    assert np.array_equal(_composed(copy), _composed(layer))


def test_a_model_is_fitted_saved_and_loaded(saved_and_loaded, tmp_path):
    inputs = {"history": np.array([[1, 2], [3, 4], [5, 6], [7, 11]])}
    layer = _layer(history="mean")
    started = layer.projection("video", 1).numpy()
    _, copy = saved_and_loaded(layer, inputs, 4, tmp_path)
    copied = copy.get_layer(layer.name).projection("video", 1)
    assert np.array_equal(copied, layer.projection("video", 1))
    assert not np.array_equal(copied, started), "Keras' optimizer stepped it"


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_it_runs_in_litert(run_in_litert):
    layer = _layer(v="mean")
    assert run_in_litert(layer, "v", [0, 11, 3]) == pytest.approx(_composed(layer)[[0, 11, 3]], abs=1e-6)


def test_mixed_float16_takes_the_same_step():
    ids, target = {"v": np.array([[1, 2], [11, 3]])}, np.ones((2, 4), np.float32)
    composed = []
    try:
        for policy in ("float32", "mixed_float16"):
            keras.mixed_precision.set_global_policy(policy)
            layer = _layer(v="mean")
            inputs = {"v": keras.Input((2,), dtype=tf.int64)}
            model = keras.Model(inputs, keras.layers.Activation("linear", dtype="float32")(layer(inputs)["v"]))
            model.compile("sgd", "mse")
            model.fit(ids, target, epochs=3, verbose=0)
            composed.append(_composed(layer))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert composed[1] == pytest.approx(composed[0], abs=2e-3)
    assert not np.array_equal(composed[0], _composed(_layer(v="mean")))
