"""Tables for a TPU: what can be held to ShardedEmbedding's numbers without one.

A TPU's own steps are computed here by the formulas that TensorFlow gives for it (optimization_parameters.proto and
sparse_core_xla_ops.cc), with the numbers that our configuration was translated to.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings import FTRL, SGD, Adagrad, Adam, FeatureConfig, RowWiseAdagrad, ShardedEmbedding, TableConfig
from embeddings.sharding.plan import ShardingPlan
from embeddings.tpu import TpuEmbedding, from_ordinary, tables, to_ordinary
from embeddings.tpu.inputs import output_shapes
from embeddings.tpu.optimizers import TpuOptimizers
from foundation.errors import UserError
from foundation.tf import keras, tf

from tensorflow.python.ops import variable_scope  # isort: skip - after the gateway
from tensorflow.python.tpu.tpu_embedding_v2 import make_sharded_variable_creator  # isort: skip

VIDEO = TableConfig("video", 50, 6, Adagrad(0.1), seed=3)
TAG = TableConfig("tag", 20, 4, Adagrad(0.1))
FEATURES = {
    "video": FeatureConfig(VIDEO),
    "history": FeatureConfig(VIDEO, "mean"),
    "clicked": FeatureConfig(VIDEO, "sqrtn"),
    "sequence": FeatureConfig(VIDEO, None),
    "tags": FeatureConfig(TAG, "sum"),
    "first_tag": FeatureConfig(TAG, None),
}
IDS, WEIGHTS = st.integers(0, 49), st.sampled_from([0.0, 1.0, -1.0, 0.5, 3.0])
ONES = tf.ones((5, 3), tf.int32)
SCHEDULE = keras.optimizers.schedules.ExponentialDecay(0.2, 5, 0.7)
STEPS = 12


def batch_of(rows: int, seed: int) -> dict:
    """All features, in every form there is."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 4, rows)
    ragged = tf.RaggedTensor.from_row_lengths(rng.integers(0, 50, lengths.sum()), lengths)
    weights = ragged.with_flat_values(tf.constant(rng.normal(size=lengths.sum()), tf.float32))
    dense = tf.constant(rng.integers(0, 20, (rows, 3)), tf.int32)
    return {
        "video": tf.constant(rng.integers(0, 50, rows), tf.int64),
        "history": (ragged, weights),
        "clicked": ragged.to_sparse(),
        "sequence": tf.constant(rng.integers(0, 50, (rows, 2)), tf.uint8),
        "tags": (dense, tf.constant(rng.normal(size=(rows, 3)), tf.float32)),
        "first_tag": dense[:, 0],
    }


def on_hosts(count: int):
    """TensorFlow's own way of laying a TPU's tables over so many hosts."""
    return variable_scope.variable_creator_scope(make_sharded_variable_creator(["/CPU:0"] * count))


def close(ours, theirs, **tolerance):
    np.testing.assert_allclose(ours, theirs, **{"rtol": 1e-5, "atol": 1e-6, **tolerance})


# Initial values.


def test_tables_begin_with_the_same_values():
    on_tpu, ordinary = TpuEmbedding(FEATURES), ShardedEmbedding(FEATURES)
    for name in ("video", "tag"):
        assert np.array_equal(on_tpu.table(name), ordinary.table(name))


@pytest.mark.parametrize(("rows", "hosts"), [(50, 3), (64, 4), (3, 5), (7, 1)])
def test_a_shard_begins_with_its_own_rows(rows, hosts, monkeypatch):
    monkeypatch.setattr(tables, "_BYTES_PER_CHUNK", 8 * 6 * 4)  # four rows
    table = TableConfig("video", rows, 6, seed=3)
    start = functools.partial(tables.initializer(table, by_shards=True), (rows, 6), dtype=tf.float32)
    with on_hosts(hosts):
        sharded = tf.Variable(name="t", initial_value=start, shape=(rows, 6), dtype=tf.float32)
    assert len(sharded.variables) == min(rows, hosts)
    whole = ShardedEmbedding({"v": FeatureConfig(table)}).table("video")
    assert np.array_equal(tf.concat([shard.read_value() for shard in sharded.variables], 0), whole)


def test_sparse_cores_ask_for_a_table_padded_to_their_liking():
    padded = tables.initializer(VIDEO, by_shards=False)(shape=(64, 8), dtype=tf.float32).numpy()
    assert np.array_equal(padded[:50, :6], ShardedEmbedding({"v": FeatureConfig(VIDEO)}).table("video"))
    assert not padded[:, 6:].any()


# Lookups.


def test_lookups_are_the_same_for_every_form_and_combiner():
    inputs = batch_of(9, seed=1)
    on_tpu, ordinary = TpuEmbedding(FEATURES), ShardedEmbedding(FEATURES)
    ours, theirs = ordinary(inputs), on_tpu(inputs)
    assert theirs.keys() == ours.keys()
    for name, value in ours.items():
        assert theirs[name].shape == value.shape
        close(value, theirs[name])


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(st.lists(st.tuples(IDS, WEIGHTS), max_size=4), min_size=1, max_size=6),
    combiner=st.sampled_from(["sum", "mean", "sqrtn"]),
    weighted=st.booleans(),
)
def test_bags_are_combined_the_same(layers, rows, combiner, weighted):
    """Empty ones, and those whose weights sum to nothing, too."""
    ids = tf.ragged.constant([[i for i, _ in row] for row in rows], dtype=tf.int64, ragged_rank=1)
    weights = tf.ragged.constant([[w for _, w in row] for row in rows], dtype=tf.float32, ragged_rank=1)
    on_tpu, ordinary = layers
    inputs = dict.fromkeys(("sum", "mean", "sqrtn"), (ids, weights) if weighted else ids)
    close(ordinary(inputs)[combiner], on_tpu(inputs)[combiner])


@pytest.fixture(scope="module")
def layers():
    features = {combiner: FeatureConfig(VIDEO, combiner) for combiner in ("sum", "mean", "sqrtn")}
    return TpuEmbedding(features), ShardedEmbedding(features)


def test_a_prepared_batch_may_be_prepared_again():
    layer, inputs = TpuEmbedding(FEATURES), batch_of(5, seed=2)
    once = layer.prepare(inputs)
    for name, value in layer(once).items():
        close(layer(inputs)[name], value)


def test_a_prepared_batch_has_the_shapes_and_types_that_a_tpu_takes():
    prepared = TpuEmbedding(FEATURES).prepare(batch_of(5, seed=2))
    flat = [value for each in prepared.values() for value in (each if isinstance(each, tuple) else (each,))]
    assert all(isinstance(value, tf.Tensor | tf.RaggedTensor) for value in flat)
    assert {value.dtype for value in flat} == {tf.int32, tf.float32}
    assert prepared["video"].shape == [5]
    assert prepared["sequence"].shape == [5, 2, 1]
    assert all(value.row_splits.shape == [6] for value in flat if isinstance(value, tf.RaggedTensor))


def test_a_tf_data_pipeline_prepares_with_its_shapes_known():
    layer = TpuEmbedding(FEATURES)
    whole = batch_of(12, seed=4)
    prepared = tf.data.Dataset.from_tensor_slices(whole).batch(4, drop_remainder=True).map(layer.prepare)
    assert prepared.element_spec["sequence"].shape == [4, 2, 1]
    assert prepared.element_spec["history"][0].shape == [4, None]
    outputs = [layer(batch) for batch in prepared]
    for name, value in layer(whole).items():
        close(value, tf.concat([output[name] for output in outputs], 0))


def test_shapes_are_known_before_the_step():
    shapes = {name: (tf.TensorShape([8, None]), tf.TensorShape([8, None])) for name in FEATURES}
    shapes |= {"sequence": [8, 2], "first_tag": tf.TensorShape([8])}
    found = output_shapes(FEATURES, shapes)
    assert found == {**{name: [8] for name in FEATURES}, "sequence": [8, 2]}
    for wrong in ({**shapes, "video": [None]}, {**shapes, "sequence": [8, None]}, {"video": [8]}):
        with pytest.raises(ValueError, match="fixed size"):
            output_shapes(FEATURES, wrong)


# Training.


def by_the_book(layer: TpuEmbedding, gradients: dict) -> None:
    """One step of a TPU, after the gradients were asked for: by table, [rows, dim] and which rows were touched."""
    for config in layer._lookups._tpu_embedding._table_config:
        gradient, touched = gradients[config.name]
        optimizer, held = config.optimizer, layer.variables_of(config.name)
        rate = optimizer.learning_rate
        rate = np.float64(rate() if callable(rate) else rate)
        g = gradient.astype(np.float64)[touched]
        if optimizer.clip_gradient_max is not None:
            g = np.clip(g, optimizer.clip_gradient_min, optimizer.clip_gradient_max)
        now = {name: variable.numpy().astype(np.float64)[touched] for name, variable in held.items()}
        kind, row = type(optimizer).__name__, now["parameters"]
        if kind == "SGD":
            row = row - rate * g
        elif kind == "Adagrad":
            now["accumulators"] += g**2
            row = row - rate * g / np.sqrt(now["accumulators"])
        elif kind == "Adam":
            assert (optimizer.lazy_adam, optimizer.sum_inside_sqrt) == (True, False)
            now["momenta"] = optimizer.beta_1 * now["momenta"] + (1 - optimizer.beta_1) * g
            now["velocities"] = optimizer.beta_2 * now["velocities"] + (1 - optimizer.beta_2) * g**2
            row = row - rate * now["momenta"] / (np.sqrt(now["velocities"]) + optimizer.epsilon)
        else:
            l1, l2 = optimizer.l1_regularization_strength, optimizer.l2_regularization_strength
            before = now["accumulators"] ** -optimizer.learning_rate_power
            now["accumulators"] += g**2
            power = now["accumulators"] ** -optimizer.learning_rate_power
            now["linears"] += g - (power - before) * row / rate
            numerator = np.clip(now["linears"], -l1, l1) - now["linears"]
            row = numerator / ((power + optimizer.beta) / rate + 2 * l2)
        now["parameters"] = row
        for name, variable in held.items():
            values = variable.numpy()
            values[touched] = now[name]
            variable.assign(values)


def loss_of(outputs: dict) -> tf.Tensor:
    return tf.add_n([tf.reduce_sum(tf.square(value - 0.3)) for value in outputs.values()])


def train_on_tpu(layer: TpuEmbedding, steps: range) -> None:
    for step in steps:
        with tf.GradientTape() as tape:
            loss = loss_of(layer(batch_of(8, seed=step), training=True))
        gradients = dict(zip(layer.tables, tape.gradient(loss, list(layer.tables.values())), strict=True))
        dense = {}
        for name, slices in gradients.items():
            summed = tf.convert_to_tensor(slices).numpy()
            touched = np.zeros(len(summed), bool)
            touched[slices.indices.numpy()] = True
            dense[name] = (summed, touched)
        by_the_book(layer, dense)


def train_ordinary(layer: ShardedEmbedding, steps: range) -> None:
    for step in steps:
        with tf.GradientTape() as tape:
            loss = loss_of(layer(batch_of(8, seed=step), training=True))
        tape.gradient(loss, layer.trainable_variables)


def trained_by(optimizer) -> dict:
    video, tag = (TableConfig(t.name, t.vocabulary_size, t.dim, optimizer, seed=3) for t in (VIDEO, TAG))
    return {name: FeatureConfig(video if f.table is VIDEO else tag, f.combiner) for name, f in FEATURES.items()}


OPTIMIZERS = {
    "SGD": SGD(0.05),
    "SGD, scheduled and clipped": SGD(SCHEDULE, clipvalue=0.3),
    "Adagrad": Adagrad(0.1),
    "Adagrad, scheduled and clipped": Adagrad(lambda made: 0.1 / tf.sqrt(tf.cast(made + 1, tf.float32)), clipvalue=0.5),
    "Adam": Adam(0.02),
    "Adam, scheduled": Adam(SCHEDULE, beta_1=0.8, beta_2=0.95, epsilon=1e-4),
    "Adam without momentum": Adam(0.02, beta_1=0.0),
    "FTRL": FTRL(0.1),
    "FTRL, regularised": FTRL(0.1, l1=0.02, l2=0.7, beta=0.5),
}


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(optimizer, id=name, marks=[pytest.mark.long] if "clipped" in name or "without" in name else [])
        for name, optimizer in OPTIMIZERS.items()
    ],
)
def test_a_tpus_steps_are_ours(optimizer):
    features = trained_by(optimizer)
    on_tpu, ordinary = TpuEmbedding(features), ShardedEmbedding(features)
    train_on_tpu(on_tpu, range(STEPS))
    train_ordinary(ordinary, range(STEPS))
    copy = ShardedEmbedding(features)
    to_ordinary(on_tpu, copy)
    for name, table in ordinary._tables.items():
        scale = abs(table.rows.numpy()).max()
        close(table.rows, copy.table(name), atol=1e-5 * scale)
        for slot, variable in table.slots.items():
            close(variable, copy.held(name).slots[slot], atol=1e-5 * abs(variable.numpy()).max())
        assert int(copy.held(name).updates) == int(table.updates) == STEPS


def test_adagrads_missing_epsilon_is_less_than_said():
    """Of a step, at the accumulator's smallest: what `TpuOptimizers` says of it."""
    ratio = np.sqrt(0.1 + 1e-7) / np.sqrt(0.1)
    assert 1 < ratio < 1 + 5.0001e-7


KERAS = {
    "SGD": (SGD(0.05), lambda o: keras.optimizers.legacy.SGD(o.learning_rate)),
    "Adagrad": (Adagrad(0.1), lambda o: keras.optimizers.legacy.Adagrad(o.learning_rate, o.initial_accumulator_value)),
    "Adam": (Adam(0.02), lambda o: keras.optimizers.legacy.Adam(0.02, o.beta_1, o.beta_2, o.epsilon)),
    "FTRL": (
        FTRL(0.1, l1=0.02, l2=0.7, beta=0.5),
        lambda o: keras.optimizers.legacy.Ftrl(
            o.learning_rate,
            l1_regularization_strength=o.l1_regularization_strength,
            l2_regularization_strength=o.l2_regularization_strength,
            beta=o.beta,
        ),
    ),
}


@pytest.mark.parametrize("kind", KERAS)
def test_the_translation_trains_the_same_by_keras_own_optimizers(kind):
    """Through tfrs' layer; every row in every step, for Keras' Adam is not lazy."""
    optimizer, of_keras = KERAS[kind]
    table = TableConfig("t", 12, 3, optimizer, seed=1)
    features = {"v": FeatureConfig(table, "mean")}
    on_tpu, ordinary = TpuEmbedding(features), ShardedEmbedding(features)
    keras_optimizer = of_keras(on_tpu._lookups._tpu_embedding._table_config[0].optimizer)
    for step in range(30):
        ids = np.random.default_rng(step).permuted(np.tile(np.arange(12), (4, 1)), axis=1).reshape(8, 6)
        for layer in (on_tpu, ordinary):
            with tf.GradientTape() as tape:
                loss = loss_of(layer({"v": tf.constant(ids)}, training=True))
            gradients = tape.gradient(loss, layer.trainable_variables)
            if layer is on_tpu:
                keras_optimizer.apply_gradients(zip(gradients, layer.trainable_variables, strict=True))
    close(ordinary.table("t"), on_tpu.table("t"), atol=1e-5 * abs(ordinary.table("t").numpy()).max())


def test_tables_with_equal_optimizers_share_a_translation():
    """What a TPU keeps apart costs it time."""
    one, two = (TableConfig(name, 9, 4, Adam(0.1)) for name in ("one", "two"))
    other = TableConfig("other", 9, 4, Adam(0.2))
    layer = TpuEmbedding({t.name: FeatureConfig(t) for t in (one, two, other)})
    by_table = {config.name: config.optimizer for config in layer._lookups._tpu_embedding._table_config}
    assert by_table["one"] is by_table["two"] is not by_table["other"]


# What a TPU cannot do.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": RowWiseAdagrad(0.1)}, r"RowWiseAdagrad, has no counterpart.*\n.*SGD, Adagrad, Adam or FTRL"),
        ({"optimizer": SGD(weight_decay=0.1)}, "no weight decay"),
        ({"optimizer": SGD(clipnorm=1.0)}, r"cannot clip by the norm.*\n.*clipvalue"),
        ({"optimizer": SGD(), "vocabulary_size": None}, r"a dynamic table cannot lie.*\n.*vocabulary_size"),
        ({"optimizer": SGD(), "vocabulary_size": 2**31}, "ids are 32-bit"),
        ({"optimizer": SGD(), "precision": "bfloat16"}, "precision is bfloat16; a TPU stores"),
        ({"optimizer": Adagrad(), "slot_precision": "float16"}, "slot_precision is float16; a TPU stores"),
    ],
)
def test_what_a_tpu_cannot_do_is_said_before_anything_is_made(options, message):
    table = TableConfig("video", **{"vocabulary_size": 10, "dim": 4, **options})
    with pytest.raises(UserError, match=rf"(?s)table 'video': .*{message}"):
        TpuEmbedding({"v": FeatureConfig(table)})


def test_sparse_cores_do_not_clip():
    optimizers = TpuOptimizers(lambda: tf.constant(0, tf.int64), sparse_core=True)
    with pytest.raises(UserError, match=r"table 'video': .*do not clip"):
        optimizers.of("video", SGD(clipvalue=1.0))
    assert optimizers.of("video", SGD(0.1)).learning_rate == 0.1


def test_a_plan_or_ranks_are_refused():
    with pytest.raises(ValueError, match="spreads its tables itself"):
        TpuEmbedding(FEATURES, plan=ShardingPlan.__new__(ShardingPlan))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"video": None}, ValueError, "missing: .*'video'"),
        ({"stranger": tf.constant([1])}, ValueError, "no feature .*'stranger'"),
        ({"video": tf.constant([1, 2, 3, 4, 50])}, tf.errors.InvalidArgumentError, "video: ids outside its vocabulary"),
        ({"video": tf.constant([1.0] * 5)}, TypeError, "'video': ids are float32"),
        ({"sequence": tf.ragged.constant([[1]] * 5)}, ValueError, r"'sequence': .*fixed shape.*ids \[B, L\]"),
        (
            {"tags": (tf.ones((5, 3), tf.int32), tf.fill((5, 3), np.nan))},
            tf.errors.InvalidArgumentError,
            "tags: .*finite",
        ),
        ({"tags": (ONES, tf.ones((5, 2)))}, tf.errors.InvalidArgumentError, "tags: .*same shape"),
    ],
)
def test_bad_input_is_refused_as_elsewhere(change, error, message):
    inputs = {name: value for name, value in {**batch_of(5, seed=0), **change}.items() if value is not None}
    with pytest.raises(error, match=message):
        TpuEmbedding(FEATURES).prepare(inputs)


def test_a_step_with_a_batch_that_was_not_prepared_is_refused():
    layer = TpuEmbedding({"tags": FEATURES["tags"]})
    layer._on_tpu = True  # where a call prepares nothing
    for value in (tf.ones((2, 3), tf.int32), tf.sparse.from_dense([[1, 2]])):
        with pytest.raises(ValueError, match=r"'tags': .*`prepare`"):
            layer({"tags": value})
    with pytest.raises(ValueError, match=r"its tables are a TPU's\. Save a tf\.train\.Checkpoint"):
        layer.table("tag")


# The same layer, and its tables elsewhere.


def test_made_in_a_tpus_scope_a_sharded_embedding_is_the_tpus(monkeypatch):
    monkeypatch.setattr("embeddings.layer.is_tpu", lambda distribution: True)
    layer = ShardedEmbedding(FEATURES, name="tables")
    assert type(layer) is TpuEmbedding
    again = ShardedEmbedding.from_config(layer.get_config())
    assert (type(again), again.name, again.features) == (TpuEmbedding, "tables", FEATURES)


def test_outside_it_is_the_ordinary_one():
    assert type(ShardedEmbedding(FEATURES)) is ShardedEmbedding
    layer = TpuEmbedding(FEATURES)
    assert type(ShardedEmbedding.from_config(layer.get_config())) is ShardedEmbedding


@pytest.mark.parametrize("kind", ["SGD", "Adagrad", "Adam", "FTRL, regularised"])
def test_trained_tables_go_over_and_train_on(kind, tmp_path):
    """TPU for 6 steps, its checkpoint into an ordinary layer for 6, back into a TPU's for 6: as 18 steps of one."""
    features = trained_by(OPTIMIZERS[kind])
    first = TpuEmbedding(features)
    train_on_tpu(first, range(6))
    path = tf.train.Checkpoint(embedding=first).save(str(tmp_path / "tpu"))

    restored, ordinary = TpuEmbedding(features), ShardedEmbedding(features)
    tf.train.Checkpoint(embedding=restored).restore(path).assert_consumed()
    to_ordinary(restored, ordinary)
    for name in first.tables:
        assert np.array_equal(ordinary.table(name), first.table(name))
    train_ordinary(ordinary, range(6, 12))

    last = TpuEmbedding(features)
    from_ordinary(ordinary, last)
    assert int(last.updates) == 12
    train_on_tpu(last, range(12, 18))
    uninterrupted = ShardedEmbedding(features)
    train_ordinary(uninterrupted, range(18))
    for name, rows in uninterrupted.tables.items():
        close(rows, last.table(name), atol=1e-5 * abs(rows.numpy()).max())


def test_a_checkpoint_that_tensorflows_tpu_embedding_writes_over_hosts_is_read(tmp_path):
    """By TensorFlow's class for a TPU, its variables laid over three hosts; only the TPU is missing."""
    written = TpuEmbedding(FEATURES)
    over_hosts = tf.tpu.experimental.embedding.TPUEmbedding(written._lookups._feature_config, None)
    with on_hosts(3):
        over_hosts.build()
    written._lookups._tpu_embedding = over_hosts
    expected = {}
    for name, held in over_hosts._variables.items():
        for part, sharded in held.items():
            assert len(sharded.variables) == 3
            for number, shard in enumerate(sharded.variables):
                shard.assign(shard * 2 + 10 * number)
            expected[name, part] = np.concatenate([shard.numpy() for shard in sharded.variables])
    path = tf.train.Checkpoint(embedding=written).save(str(tmp_path / "tpu"))

    restored, ordinary = TpuEmbedding(FEATURES), ShardedEmbedding(FEATURES)
    tf.train.Checkpoint(embedding=restored).restore(path).assert_existing_objects_matched()
    to_ordinary(restored, ordinary)
    for name in ("video", "tag"):
        assert np.array_equal(ordinary.table(name), expected[name, "parameters"])
        assert np.array_equal(ordinary.held(name).slots["accumulator"], expected[name, "accumulators"])


def test_other_tables_are_not_copied():
    on_tpu = TpuEmbedding(FEATURES)
    for other in (
        TableConfig("video", 51, 6, Adagrad(0.1)),
        TableConfig("video", 50, 6, SGD(0.1)),
        TableConfig("stranger", 50, 6, Adagrad(0.1)),
    ):
        with pytest.raises(ValueError, match=f"table '{other.name}': .*must be the same"):
            to_ordinary(on_tpu, ShardedEmbedding({"v": FeatureConfig(other)}))
    part = ShardedEmbedding({"v": FeatureConfig(VIDEO)})
    to_ordinary(on_tpu, part)
    with pytest.raises(ValueError, match=r"has no table \['tag'\]"):
        from_ordinary(part, on_tpu)
    uneven = ShardedEmbedding(FEATURES)
    uneven.held("tag").updates.assign(3)
    with pytest.raises(ValueError, match=r"equally often: .*'tag': 3"):
        from_ordinary(uneven, on_tpu)
