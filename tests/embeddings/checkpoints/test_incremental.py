"""Saves of what changed since another: few bytes, and the same tables."""

import os

import numpy as np
import pytest

from embeddings import Adagrad, FeatureConfig, RowWiseAdagrad, ShardedEmbedding, TableConfig
from embeddings.checkpoints import restore_tables, save_tables, snapshot_tables, verify_tables
from embeddings.checkpoints import tables as saving
from embeddings.checkpoints.compare import compare_tables
from embeddings.checkpoints.verify import damages
from embeddings.sharding import ShardingPlan, TableSharding
from foundation.errors import UserError
from foundation.tf import tf
from tests.embeddings.checkpoints.worlds import world

ROWS = 40_000
LARGE = TableConfig("large", ROWS, 16, RowWiseAdagrad(0.1), track_updates=True)
SMALL = TableConfig("small", 50, 8, Adagrad(0.1), track_updates=True)
OPEN = TableConfig("open", None, 8, RowWiseAdagrad(0.1))


def _layer(tables=(LARGE, SMALL, OPEN)):
    return ShardedEmbedding({table.name: FeatureConfig(table) for table in tables})


def _train(layer, ids):
    with tf.GradientTape() as tape:
        vectors = layer(
            {name: tf.constant(ids % 50 if name == "small" else ids) for name in layer.features}, training=True
        )
        loss = tf.add_n([tf.reduce_sum(tf.square(each + 1.0)) for each in vectors.values()])
    tape.gradient(loss, layer.trainable_variables)


def _variables(layer):
    found = {}
    for name in layer.features:
        held = layer.held(name)
        if name == "open":
            ids = np.arange(500)
            found[name] = layer({name: tf.constant(ids)})[name].numpy()
        else:
            found |= {f"{name}/{each}": variable.numpy() for each, variable in held.variables.items()}
    return found


def _same(ours, theirs):
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)


def _own_bytes(folder):
    """Of files that have no other name."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and file.stat().st_nlink == 1)


def _saved(layer, folder, base=None):
    with snapshot_tables(layer) as snapshot:
        return snapshot.write(folder, base)


def test_ten_saves_after_a_full_one_hold_what_changed_and_restore_exactly(tmp_path):
    layer, rng = _layer(), np.random.default_rng(0)
    _train(layer, rng.integers(0, ROWS, 3_000))
    base = _saved(layer, tmp_path / "full")
    full = _own_bytes(tmp_path / "full")
    states = []
    for number in range(10):
        _train(layer, rng.integers(0, 400, 100))
        base = _saved(layer, tmp_path / f"{number}", base)
        states.append(_variables(layer))
    assert _own_bytes(tmp_path / "9") < full / 5
    for number, state in enumerate(states):
        other = _layer()
        restore_tables(other, tmp_path / f"{number}")
        assert _same(_variables(other), state), number
        verify_tables(tmp_path / f"{number}")


def test_it_stands_on_its_own_when_its_base_is_gone(tmp_path):
    layer = _layer()
    _train(layer, np.arange(300))
    base = _saved(layer, tmp_path / "full")
    _train(layer, np.arange(100))
    _saved(layer, tmp_path / "changes", base)
    for file in (tmp_path / "full").rglob("*"):
        if file.is_file():
            file.unlink()
    other = _layer()
    restore_tables(other, tmp_path / "changes")
    assert _same(_variables(other), _variables(layer))


def test_a_row_that_one_update_touched_is_all_that_is_written(tmp_path):
    layer = _layer((LARGE,))
    base = _saved(layer, tmp_path / "full")
    _train(layer, np.array([7, 7, 1_031]))
    _saved(layer, tmp_path / "changes", base)
    tracked = layer.held("large").last_update.numpy()
    assert np.flatnonzero(tracked).tolist() == [7, 1_031]
    assert set(tracked) == {0, 1}
    assert _own_bytes(tmp_path / "changes") < 20_000


@pytest.mark.parametrize("kind", ["row_wise", "column_wise", "hot_cold", "table_wise"])
def test_of_any_sharding_it_is_read_by_one_rank(kind, tmp_path):
    sharding = {
        "row_wise": TableSharding("large", "row_wise", (0, 1)),
        "column_wise": TableSharding("large", "column_wise", (0, 1), (12, 4)),
        "hot_cold": TableSharding("large", "hot_cold", (0, 1), (), 3, (5, 9, 2_000)),
        "table_wise": TableSharding("large", "table_wise", (1,)),
    }[kind]
    layers = world([LARGE], ShardingPlan(2, {"large": sharding}))
    bases = [_saved(layer, tmp_path / "full") for layer in layers]
    wanted = {}
    for layer in layers:  # as an update would leave them
        for shard in layer.shards():
            ids = shard.ids_of_rows()
            changed = np.flatnonzero(np.isin(ids, [5, 9, 11, 2_000, 2_001, 39_999]))
            values = np.random.default_rng(0).normal(size=(len(changed), shard.held.config.dim)).astype(np.float32)
            if shard.replicated or kind != "hot_cold":
                values[:] = ids[changed][:, np.newaxis] + np.arange(*shard.columns)
            shard.held.rows.scatter_update(tf.IndexedSlices(tf.constant(values), changed))
            shard.held.updates.assign(1)
            shard.held.note_update(tf.constant(changed))
            for row, identifier in zip(values, ids[changed], strict=True):
                if shard.but is None or identifier not in shard.but:
                    wanted.setdefault(identifier, {})[shard.columns[0]] = row
    for layer, base in zip(layers, bases, strict=True):
        _saved(layer, tmp_path / "changes", base)
    other = _layer((LARGE,))
    restore_tables(other, tmp_path / "changes")
    rows = other.table("large").numpy()
    for identifier, pieces in wanted.items():
        whole = np.concatenate([pieces[column] for column in sorted(pieces)])
        assert np.array_equal(rows[identifier], whole), identifier
    fresh = _layer((LARGE,)).table("large").numpy()
    untouched = np.setdiff1d(np.arange(ROWS), list(wanted))
    assert np.array_equal(rows[untouched], fresh[untouched])


@pytest.mark.parametrize("trained", [0, 3])
def test_by_id_it_is_the_same_as_a_full_save(trained, tmp_path):
    layer = _layer()
    _train(layer, np.arange(500))
    base = _saved(layer, tmp_path / "full")
    for step in range(trained):
        _train(layer, np.arange(step, 300, 7))
    _saved(layer, tmp_path / "changes", base)
    save_tables(layer, tmp_path / "whole")
    found = compare_tables(tmp_path / "whole", tmp_path / "changes")
    assert found.keys() == {"large", "small", "open"}
    assert all(of_table.same for of_table in found.values())
    assert not damages(tmp_path / "changes")


def test_where_files_cannot_have_two_names_all_rows_are_written(tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(saving.os, "link", refuse)
    layer = _layer((LARGE,))
    base = _saved(layer, tmp_path / "full")
    _train(layer, np.arange(100))
    _saved(layer, tmp_path / "changes", base)
    assert "all rows are written" in capsys.readouterr().err
    other = _layer((LARGE,))
    restore_tables(other, tmp_path / "changes")
    assert _same(_variables(other), _variables(layer))


def test_damage_to_what_two_saves_share_is_told_of_each(tmp_path):
    layer = _layer((LARGE,))
    base = _saved(layer, tmp_path / "full")
    _train(layer, np.arange(100))
    _saved(layer, tmp_path / "changes", base)
    rows = next(file for file in (tmp_path / "changes").glob("**/0/rows/c/**/*") if file.is_file())
    content = bytearray(rows.read_bytes())
    content[len(content) // 2] ^= 1
    with open(rows, "r+b") as file:
        file.write(content)
        os.fsync(file.fileno())
    for folder in ("full", "changes"):
        with pytest.raises(UserError, match="damaged"):
            verify_tables(tmp_path / folder)


def test_of_a_save_that_did_not_track_all_rows_count_as_touched(tmp_path):
    plain = TableConfig("large", ROWS, 16, RowWiseAdagrad(0.1))
    layer = _layer((plain,))
    _train(layer, np.arange(10))
    save_tables(layer, tmp_path / "plain")
    other = _layer((LARGE,))
    restore_tables(other, tmp_path / "plain")
    assert set(other.held("large").last_update.numpy()) == {1}
