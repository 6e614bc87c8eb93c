"""Dynamic tables: a row for each id that comes, as good as if it had always been there."""

import numpy as np
import pytest

import embeddings
from embeddings import (
    Adam,
    FeatureConfig,
    FrequencyAdmission,
    LeastFrequentlyUsed,
    LeastRecentlyUsed,
    ProbabilityAdmission,
    RowWiseAdagrad,
    ShardedEmbedding,
    TableConfig,
    TimeToLive,
)
from embeddings.summaries import TableCounts
from foundation.tf import keras, tf

ROWS, DIM = 500, 8


def _layer(size=None, optimizer=None, **options):
    table = TableConfig("t", size, DIM, optimizer or RowWiseAdagrad(0.1), seed=3, **options)
    return ShardedEmbedding({"one": FeatureConfig(table, None), "many": FeatureConfig(table, "mean")})


def _inputs(step, most=ROWS):
    rng = np.random.default_rng(step)
    one, many = rng.integers(0, most, 40), rng.zipf(1.3, 90) % most
    return {"one": tf.constant(one), "many": tf.RaggedTensor.from_row_lengths(tf.constant(many), [3] * 30)}


def _train(layer, steps, inputs=_inputs):
    losses = []
    for step in steps:
        with tf.GradientTape() as tape:
            outputs = layer(inputs(step), training=True)
            loss = tf.add_n([tf.reduce_mean(tf.square(output - 1.0)) for output in outputs.values()])
        tape.gradient(loss, layer.trainable_variables)
        losses.append(float(loss))
    return losses


def _by_id(layer):
    vocabulary = layer.vocabulary("t")
    return dict(zip(vocabulary.ids.tolist(), vocabulary.rows[1:], strict=True))


@pytest.fixture(params=["compiled", "twin"], autouse=True)
def kernel(request, monkeypatch):
    """Every promise holds with either kernel."""
    if request.param == "twin":
        monkeypatch.setenv("HEADRACE_KERNELS", "off")
    return request.param


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("optimizer", [RowWiseAdagrad(0.1), Adam(0.1)])
def test_it_trains_as_a_static_table_that_knew_the_ids(precision, optimizer):
    dynamic = _layer(None, optimizer, precision=precision)
    static = _layer(ROWS, optimizer, precision=precision)
    assert _train(dynamic, range(15)) == _train(static, range(15))
    rows = _by_id(dynamic)
    assert len(rows) > 100
    known = tf.cast(static.table("t"), tf.float32).numpy()
    for identifier, row in rows.items():
        assert np.array_equal(row, known[identifier])


def test_any_64_bit_ids_and_many_of_them():
    layer = _layer()
    ids = np.unique(np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 30000))
    for piece in np.array_split(ids, 7):
        layer({"one": tf.constant(piece)}, training=True)
        layer._ranks.here[0].fused._awaiting.assign(False)  # no gradient is asked for
    vocabulary = layer.vocabulary("t")
    assert np.array_equal(vocabulary.ids, ids)
    assert len(np.unique(vocabulary.rows, axis=0)) == len(ids) + 1
    assert np.array_equal(layer({"one": tf.constant(ids)})["one"], vocabulary.rows[1:])


def test_outside_training_nothing_is_inserted_or_counted_and_unknown_ids_are_zero():
    layer = _layer()
    _train(layer, range(3))
    before = layer.counts()["t"]
    outputs = layer({"one": tf.constant([10**15, -1])}, training=False)["one"]
    assert not np.any(outputs)
    assert {name: int(value) for name, value in before.items()} == {
        name: int(value) for name, value in layer.counts()["t"].items()
    }


def test_ids_that_are_not_admitted_train_the_shared_row():
    layer = _layer(admission=FrequencyAdmission(3))
    new = lambda step: {"one": tf.constant([7, 7, 10**6 + step])}  # noqa: E731
    _train(layer, range(1), new)
    assert int(layer.counts()["t"]["rejected"]) == 3
    _train(layer, range(1, 2), new)
    counts = {name: int(value) for name, value in layer.counts()["t"].items()}
    assert counts == {"steps": 2, "rows": 1, "insertions": 1, "evictions": 0, "rejected": 4}
    vocabulary = layer.vocabulary("t")
    assert vocabulary.ids.tolist() == [7]
    assert np.all(vocabulary.rows[0] > 0), "it learned from the ids that share it"
    assert np.array_equal(layer({"one": tf.constant([123])})["one"][0], vocabulary.rows[0])


@pytest.mark.parametrize("eviction", [LeastRecentlyUsed(), LeastFrequentlyUsed()])
def test_a_capacity_is_kept_and_evicted_ids_begin_anew(eviction):
    layer = _layer(capacity=64, eviction=eviction)
    for step in range(30):
        _train(layer, [step], lambda step: {"one": tf.range(20 * step, 20 * step + 20, dtype=tf.int64)})
        assert int(layer.counts()["t"]["rows"]) <= 64
    counts = layer.counts()["t"]
    assert int(counts["insertions"]) == 600
    assert int(counts["evictions"]) == 600 - int(counts["rows"])
    before = _layer(1000).table("t").numpy()[5]
    _train(layer, [0], lambda _: {"one": tf.constant([5])})
    fresh = _layer(capacity=64)
    _train(fresh, [0], lambda _: {"one": tf.constant([5])})
    assert np.array_equal(_by_id(layer)[5], _by_id(fresh)[5])
    assert not np.array_equal(_by_id(layer)[5], before)


def test_without_eviction_a_full_table_rejects():
    layer = _layer(capacity=64)
    _train(layer, range(10))
    counts = layer.counts()["t"]
    assert int(counts["rows"]) == 64
    assert int(counts["evictions"]) == 0
    assert int(counts["rejected"]) > 0


def test_ids_live_as_long_as_they_keep_coming():
    layer = _layer(eviction=TimeToLive(16))
    _train(layer, range(40), lambda step: {"one": tf.constant([1, 1000 + step])})
    ids = set(layer.vocabulary("t").ids.tolist())
    assert 1 in ids
    assert {1000 + step for step in range(25, 40)} <= ids
    assert not {1000 + step for step in range(20)} & ids


POLICIES = [
    {},
    {"admission": FrequencyAdmission(2, 1024), "eviction": TimeToLive(5)},
    {"admission": ProbabilityAdmission(0.5), "capacity": 100, "eviction": LeastFrequentlyUsed()},
]


@pytest.mark.parametrize("policies", POLICIES)
@pytest.mark.parametrize("other", ["compiled", "twin"])
def test_restored_it_goes_on_bit_by_bit_or_with_the_other_kernel(tmp_path, monkeypatch, policies, kernel, other):
    undisturbed, first = (_layer(optimizer=Adam(0.1), precision="bfloat16", **policies) for _ in range(2))
    _train(undisturbed, range(12))
    _train(first, range(6))
    path = tf.train.Checkpoint(layer=first).write(str(tmp_path / "checkpoint"))
    monkeypatch.setenv("HEADRACE_KERNELS", "auto" if other == "compiled" else "off")
    second = _layer(optimizer=Adam(0.1), precision="bfloat16", **policies)
    tf.train.Checkpoint(layer=second).read(path).assert_consumed()
    _train(second, range(6, 12))
    one, two = undisturbed.vocabulary("t"), second.vocabulary("t")
    assert np.array_equal(one.ids, two.ids)
    # another order of summation now and then rounds to the neighbour
    np.testing.assert_allclose(one.rows, two.rows, rtol=0, atol=0 if kernel == other else 0.02)
    assert {k: int(v) for k, v in undisturbed.counts()["t"].items()} == {
        k: int(v) for k, v in second.counts()["t"].items()
    }


def test_its_vocabulary_is_looked_up_in_plain_tensorflow(tmp_path):
    layer = _layer(admission=FrequencyAdmission(2))
    _train(layer, range(5))
    vocabulary = layer.vocabulary("t")
    module = tf.Module()
    module.rows = tf.Variable(vocabulary.rows)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)])
    def look_up(ids):
        return tf.gather(module.rows, vocabulary.places(ids))

    module.look_up = look_up
    tf.saved_model.save(module, str(tmp_path / "model"))
    ids = tf.constant([*vocabulary.ids, -5, 10**12], tf.int64)
    assert np.array_equal(tf.saved_model.load(str(tmp_path / "model")).look_up(ids), layer({"one": ids})["one"])


def test_learning_without_training_true_is_refused_rather_than_done_to_the_shared_row():
    layer = _layer()
    with pytest.raises(
        ValueError, match=r"dynamic tables \(t\) learn, and take up new ids, only in a call with training"
    ):
        _train_plainly(layer)
    static = _layer(10)
    _train_plainly(static)  # as TFRS' own tutorials do


def test_a_dynamic_table_that_is_not_asked_for_forbids_nothing():
    features = {"one": FeatureConfig(TableConfig("static", 10, 4)), "open": FeatureConfig(TableConfig("t", None, 4))}
    layer = ShardedEmbedding(features)
    before = layer.table("static").numpy()
    _train_plainly(layer)
    assert np.any(layer.table("static").numpy() != before)


def _train_plainly(layer):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer({"one": tf.constant([1])})["one"])
    tape.gradient(loss, layer.trainable_variables)


def test_fit_with_several_steps_an_execution_inserts_at_each_of_them():
    layer = _layer()
    inputs = {"one": keras.Input((), dtype=tf.int64, name="one")}
    model = keras.Model(inputs, keras.layers.Dense(1)(layer(inputs)["one"]))
    model.compile(keras.optimizers.SGD(0.1), "mse", steps_per_execution=4)
    model.fit({"one": np.arange(64)}, np.ones(64), batch_size=8, verbose=0)
    assert {name: int(value) for name, value in layer.counts()["t"].items()} == {
        "steps": 8, "rows": 64, "insertions": 64, "evictions": 0, "rejected": 0,
    }  # fmt: skip


def test_what_cannot_hold_it_says_so(tmp_path):
    inputs = {"one": keras.Input((), dtype=tf.int64, name="one")}
    model = keras.Model(inputs, _layer()(inputs)["one"])
    with pytest.raises(ValueError, match="table 't' is dynamic: what is exported holds static tables"):
        tf.saved_model.save(model, str(tmp_path / "model"))
    with pytest.raises(ValueError, match="Keras' own files cannot hold dynamic tables"):
        model.save(str(tmp_path / "model.keras"))
    with pytest.raises(ValueError, match="table 't' is static"):
        _layer(10).vocabulary("t")
    with pytest.raises(ValueError, match=r"no table 'typo'; the layer has \['t'\]"):
        _layer().vocabulary("typo")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabulary_size": 5, "capacity": 5}, "capacity is for dynamic tables"),
        ({"vocabulary_size": 5, "admission": FrequencyAdmission(2)}, "admission is for dynamic tables"),
        ({"vocabulary_size": None, "capacity": 0}, "capacity is at least 1"),
        ({"vocabulary_size": None, "eviction": LeastRecentlyUsed()}, "LeastRecentlyUsed evicts at a capacity"),
        ({"vocabulary_size": None, "eviction": LeastRecentlyUsed}, "eviction is <class .*it is one of TimeToLive"),
        ({"vocabulary_size": None, "admission": 5}, "admission is 5; it is one of FrequencyAdmission"),
        ({"vocabulary_size": 5, "precision": "half"}, "precision is 'half'; known: float32, bfloat16, float16"),
        ({"vocabulary_size": 5, "optimizer": Adam(), "slot_precision": "float16"}, "take bfloat16"),
        ({"vocabulary_size": 5, "name": "my table"}, "a name begins with a letter or digit"),
        ({"vocabulary_size": 5, "optimizer": type("Mine", (embeddings.SGD,), {})()}, "optimizer is Mine"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        TableConfig(**{"name": "t", "dim": 4, **options})


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("SGD", {"learning_rate": -1.0}, "learning_rate is not negative"),
        ("SGD", {"weight_decay": -1.0}, "weight_decay is not negative"),
        ("Adagrad", {"clipnorm": 0.0}, "clipnorm and clipvalue are positive"),
        ("Adagrad", {"clipnorm": 1.0, "clipvalue": 1.0}, "exclude each other"),
        ("Adam", {"beta_1": 1.0}, "lie in"),
        ("FTRL", {"weight_decay": 0.1}, "FTRL takes l2"),
        ("FTRL", {"l1": -1.0}, "l1, l2 and beta are not negative"),
        ("FTRL", {"learning_rate": lambda step: 0.1}, "FTRL's learning_rate is one positive number"),
    ],
)
def test_optimizers_check_their_numbers(kind, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(embeddings, kind)(**options)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (lambda: FrequencyAdmission(0), "threshold lies in 1 to 255"),
        (lambda: FrequencyAdmission(2, 0), "counters is at least 1"),
        (lambda: ProbabilityAdmission(0.0), r"probability lies in \(0, 1\]"),
        (lambda: TimeToLive(0), "steps is at least 1"),
    ],
)
def test_policies_check_their_numbers(policy, message):
    with pytest.raises(ValueError, match=message):
        policy()


def test_the_config_says_it_all():
    layer = _layer(admission=FrequencyAdmission(4, 99), eviction=LeastFrequentlyUsed(), capacity=7)
    again = ShardedEmbedding.from_config(layer.get_config())
    assert again.features == layer.features
    assert embeddings.TableConfig.from_document(layer.features["one"].table.document()) == layer.features["one"].table


def test_counts_reach_tensorboard(tmp_path):
    layer = _layer()
    inputs = {"one": keras.Input((), dtype=tf.int64, name="one")}
    model = keras.Model(inputs, keras.layers.Dense(1)(layer(inputs)["one"]))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    ids = np.arange(64)
    model.fit({"one": ids}, np.ones(64), batch_size=16, verbose=0, callbacks=[TableCounts(tmp_path, every=2)])
    events = [
        (value.tag, event.step, int(tf.make_ndarray(value.tensor)))
        for file in tmp_path.iterdir()
        for event in tf.compat.v1.train.summary_iterator(str(file))
        for value in event.summary.value
    ]
    rows = [(step, value) for tag, step, value in events if tag == f"{layer.name}/t/rows"]
    assert rows == [(2, 32), (4, 64)]
    assert {tag.rpartition("/")[2] for tag, _, _ in events} == {
        "steps", "rows", "insertions", "evictions", "rejected",
    }  # fmt: skip
