"""Exported tables, read by pandas and numpy alone."""

import json
import resource

import numpy as np
import pandas as pd
import pytest

from embeddings import Adam, RowWiseAdagrad, TableConfig, save_tables
from embeddings.checkpoints import export
from embeddings.checkpoints.arrays import Writer
from embeddings.checkpoints.export import export_tables
from embeddings.checkpoints.manifest import Manifest, SavedPart
from embeddings.checkpoints.saved_rows import SavedRows
from embeddings.sharding import ShardingPlan, TableSharding
from foundation.errors import UserError
from foundation.tf import tf
from tests.embeddings.checkpoints.worlds import alone, fill, value_of, world

STATIC = TableConfig("static/one", 2_500, 4, RowWiseAdagrad(0.1), precision="bfloat16")
OPEN = TableConfig("open", None, 6, Adam(0.1))
IDS = np.concatenate([np.arange(0, 900, 3), [-(2**40), 2**62, -1]])
PLAN = ShardingPlan(
    3,
    {
        "static/one": TableSharding("static/one", "hot_cold", (0, 1, 2), (), 3, (0, 7, 2_499)),
        "open": TableSharding("open", "column_wise", (1, 2), (2, 4)),
    },
)


def _save(folder, layers):
    for layer in layers:
        save_tables(layer, folder)
    return folder


@pytest.fixture
def saved(tmp_path):
    layers = world([STATIC, OPEN], PLAN)
    fill(layers, {"open": IDS})
    return _save(tmp_path / "saved", layers)


@pytest.fixture(params=[None, 1_000], ids=["at once", "a few rows at a time"])
def _few(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(SavedRows, "rows_at_once", 70)
        monkeypatch.setattr(export, "BYTES_AT_ONCE", request.param)


@pytest.mark.usefixtures("_few")
def test_pandas_and_numpy_alone_give_rows_by_id(saved, tmp_path):
    (tmp_path / "out").mkdir()
    index = export_tables(saved, tmp_path / "out")
    wanted_ids = {"static/one": np.arange(2_500), "open": np.sort(IDS)}
    for name, ids in wanted_ids.items():
        folder, dim = tmp_path / "out" / index[name]["folder"], index[name]["dim"]
        wanted = value_of("rows", ids, np.arange(dim))
        if name == "static/one":
            wanted = tf.cast(tf.cast(wanted, tf.bfloat16), tf.float32).numpy()
        found_ids, vectors = np.load(folder / "ids.npy"), np.load(folder / "vectors.npy", mmap_mode="r")
        assert (found_ids.dtype, vectors.dtype, vectors.shape) == (np.int64, np.float32, (len(ids), dim))
        assert np.array_equal(found_ids, ids)
        assert np.array_equal(vectors, wanted)
        frame = pd.read_parquet(folder / "rows.parquet").set_index("id")
        assert frame.index.to_numpy().tolist() == ids.tolist()
        assert np.array_equal(np.stack(frame["vector"].to_numpy()), wanted)
        assert frame.loc[ids[7], "vector"].tolist() == wanted[7].tolist()
        assert set(index[name]["files"]) == {path.name for path in folder.iterdir()}
    shared = np.load(tmp_path / "out" / index["open"]["folder"] / "shared.npy")
    assert np.array_equal(shared, value_of("rows", np.array([-(2**63)]), np.arange(6))[0])
    json.dumps(index)


def test_a_table_without_rows(tmp_path):
    _save(tmp_path / "saved", [alone([OPEN])])
    (tmp_path / "out").mkdir()
    folder = tmp_path / "out" / export_tables(tmp_path / "saved", tmp_path / "out")["open"]["folder"]
    assert np.load(folder / "vectors.npy").shape == (0, 6)
    assert len(pd.read_parquet(folder / "rows.parquet")) == 0


def _with_last_update(folder, updates):
    """Adds the array "last_update" to each part of the static table: `updates` [vocabulary] int64."""
    for path in sorted(folder.glob("rank-*/manifest.json")):
        manifest = Manifest.read(path)
        for number, part in enumerate(manifest.parts):
            if part.table != "static/one":
                continue
            shape = part.arrays["accumulator"].shape
            where = part.arrays["rows"].path.replace("/rows", "/last_update")
            writer = Writer(folder, where, shape, "int64", shape)
            if part.hot:
                values = updates[[0, 7, 2_499]]
            else:
                ids = part.buckets[:, np.newaxis] + 1_024 * np.arange(shape[1])
                values = np.where(ids < 2_500, updates[np.minimum(ids, 2_499)], 0)
                values[np.isin(ids, [0, 7, 2_499])] = 99  # of which the hot part has the truth
            for piece in writer.pieces():
                writer.write(piece, np.ascontiguousarray(values[piece]))
            manifest.parts[number] = SavedPart(
                **{**vars(part), "arrays": {**part.arrays, "last_update": writer.close()}}
            )
        manifest.write(folder)


def test_since_a_step_only_what_was_touched(saved, tmp_path):
    updates = np.arange(2_500) % 5
    _with_last_update(saved, updates)
    (tmp_path / "out").mkdir()
    index = export_tables(saved, tmp_path / "out", since=2)
    folders = {name: tmp_path / "out" / entry["folder"] for name, entry in index.items()}
    ids = np.load(folders["static/one"] / "ids.npy")
    assert ids.tolist() == np.flatnonzero(updates > 2).tolist()
    # three steps: each brought a third of the ids
    assert np.load(folders["open"] / "ids.npy").tolist() == np.sort(np.array_split(IDS, 3)[2]).tolist()
    assert index["static/one"]["of_rows"] == 2_500


def test_since_a_step_wants_to_know_when(saved, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="'static/one' does not say when its rows were last updated") as raised:
        export_tables(saved, tmp_path / "out", since=2)
    assert "TableConfig(track_updates=True)" in raised.value.remedy
    assert "--since CHECKPOINT" in raised.value.remedy


def test_since_a_checkpoint_what_differs_from_it(saved, tmp_path):
    (layer,) = layers = [alone([STATIC, OPEN])]
    fill(layers, {"open": np.concatenate([IDS[:-2], [5_000, 5_001]])})
    rows = layer.table("static/one")
    rows.scatter_nd_update([[7, 1], [1_500, 0]], tf.constant([0.5, 0.5], rows.dtype))
    _save(tmp_path / "later", layers)
    (tmp_path / "out").mkdir()
    index = export_tables(tmp_path / "later", tmp_path / "out", since=saved)
    folders = {name: tmp_path / "out" / entry["folder"] for name, entry in index.items()}
    assert np.load(folders["static/one"] / "ids.npy").tolist() == [7, 1_500]
    assert np.load(folders["static/one"] / "vectors.npy")[:, [0, 1]][[1, 0], [0, 1]].tolist() == [0.5, 0.5]
    assert np.load(folders["static/one"] / "gone.npy").tolist() == []
    assert np.load(folders["open"] / "ids.npy").tolist() == [5_000, 5_001]
    assert np.load(folders["open"] / "gone.npy").tolist() == [-1, 2**62]


def test_tables_of_another_dim_are_no_earlier_ones(saved, tmp_path):
    _save(tmp_path / "other", [alone([TableConfig("open", None, 5)])])
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="table 'open' has dim 5"):
        export_tables(saved, tmp_path / "out", since=tmp_path / "other")


def test_a_disk_that_takes_no_more_is_told(saved, tmp_path):
    (tmp_path / "out").mkdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
        with pytest.raises(UserError, match="cannot be written"):
            export_tables(saved, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
