"""Files that are damaged, and tables that are not the layer's: one message that names the file or the table."""

import json
import resource
import shutil

import numpy as np
import pytest

from embeddings import TableConfig, restore_tables, save_tables, verify_tables
from embeddings.sharding import ShardingPlan, TableSharding
from foundation.errors import UserError
from tests.embeddings.checkpoints.worlds import alone, fill, world

TABLES = [TableConfig("a", 3_000, 4), TableConfig("open", None, 4)]
PLAN = ShardingPlan(2, {table.name: TableSharding(table.name, "row_wise", (0, 1)) for table in TABLES})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    layers = world(TABLES, PLAN)
    fill(layers, {"open": np.arange(500)})
    for layer in layers:
        save_tables(layer, folder)
    return folder


def _files(folder):
    return sorted(entry.relative_to(folder) for entry in folder.rglob("*") if entry.is_file())


def _both_name(folder, named, words):
    for read in (lambda: verify_tables(folder), lambda: restore_tables(alone(TABLES), folder)):
        with pytest.raises(UserError) as raised:
            read()
        assert str(named) in raised.value.message
        assert words in raised.value.message
        assert raised.value.remedy


def test_a_flipped_bit_anywhere_is_told_by_the_files_name(saved, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    rng = np.random.default_rng(0)
    for name in _files(copy):
        whole = (copy / name).read_bytes()
        flipped = bytearray(whole)
        flipped[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        (copy / name).write_bytes(flipped)
        with pytest.raises(UserError) as raised:
            verify_tables(copy)
        assert str(copy / name) in raised.value.message
        (copy / name).write_bytes(whole)
    verify_tables(copy)


@pytest.mark.parametrize("array", ["rows", "accumulator", "ids", "bucket_starts"])
def test_a_damaged_file_is_named(saved, tmp_path, array):
    for harm, words in ((_cut, "bytes long instead of"), (_flip, "damaged"), (_remove, "missing")):
        copy = tmp_path / harm.__name__
        shutil.copytree(saved, copy)
        name = next(n for n in _files(copy) if array in n.parts and "open" in n.parts[1] and n.name != "zarr.json")
        harm(copy / name)
        _both_name(copy, copy / name, words)


def test_a_missing_rank_or_manifest_is_named(saved, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    (copy / "rank-00001" / "manifest.json").unlink()
    _both_name(copy, copy / "rank-00001" / "manifest.json", "missing")
    shutil.rmtree(copy / "rank-00001")
    with pytest.raises(UserError, match="rank-00001: this part of the checkpoint is missing"):
        restore_tables(alone(TABLES), copy)
    with pytest.raises(UserError, match="there are no tables here"):
        restore_tables(alone(TABLES), tmp_path / "nowhere")


def test_ranks_of_two_checkpoints_are_not_one(saved, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    save_tables(alone(TABLES), copy)  # of one rank, where there were two
    with pytest.raises(UserError, match=r"rank-00001/manifest.json: not of the same checkpoint"):
        verify_tables(copy)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "written by a newer version"),
        ({"rank": 1}, "its digest is another"),
        ({"parts": None}, "its digest is another"),
    ],
)
def test_a_manifest_changed_by_hand(saved, tmp_path, change, words):
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    path = copy / "rank-00000" / "manifest.json"
    document = json.loads(path.read_text())
    document["content"].update(change)
    path.write_text(json.dumps(document))
    _both_name(copy, path, words)


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ([TableConfig("b", 3_000, 4), TABLES[1]], "no table 'b'"),
        ([TABLES[0]], "has a table 'open'; the layer has a"),
        ([TableConfig("a", 3_001, 4), TABLES[1]], "table 'a' has vocabulary_size 3000; the layer's has 3001"),
        ([TableConfig("a", None, 4), TABLES[1]], "table 'a' has vocabulary_size 3000; the layer's has None"),
        ([TABLES[0], TableConfig("open", None, 8)], "table 'open' has dim 4; the layer's has 8"),
    ],
)
def test_tables_that_are_not_the_layers_are_refused_and_change_nothing(saved, tables, words):
    layer = alone(tables)
    before = {name: rows.numpy() for name, rows in layer.tables.items()}
    with pytest.raises(UserError) as raised:
        restore_tables(layer, saved)
    assert words in raised.value.message
    assert all(np.array_equal(before[name], rows) for name, rows in layer.tables.items())


def test_a_disk_that_takes_no_more_is_told(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    layer = alone(TABLES)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        with pytest.raises(UserError, match=r"rows: cannot be written \(.*File too large"):
            save_tables(layer, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-3])


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def _remove(path):
    path.unlink()
