"""A reader written from docs/checkpoint-format.md alone, with json, tensorstore and numpy: nothing else reads."""

import json

import numpy as np
import pytest
import tensorstore

from embeddings import Adam, RowWiseAdagrad, TableConfig, save_tables
from embeddings.sharding import ShardingPlan, TableSharding
from tests.embeddings.checkpoints.worlds import fill, value_of, world

TABLES = [
    TableConfig("static/one", 2_500, 6, RowWiseAdagrad(0.1)),
    TableConfig("small", 30, 4, Adam(0.1)),
    TableConfig("open", None, 6, Adam(0.1)),
]
IDS = np.concatenate([np.arange(0, 900, 3), [-(2**40), 2**62, -1]])
EVERYONE = (0, 1, 2)
PLANS = {
    "rows": {name: TableSharding(name, "row_wise", (2, 0, 1)) for name in ("static/one", "small", "open")},
    "columns": {
        "static/one": TableSharding("static/one", "column_wise", (1, 0), (2, 4)),
        "small": TableSharding("small", "data_parallel", EVERYONE),
        "open": TableSharding("open", "column_wise", EVERYONE, (1, 2, 3)),
    },
    "hot and cold": {
        "static/one": TableSharding("static/one", "hot_cold", EVERYONE, (), 3, (0, 7, 2_499)),
        "small": TableSharding("small", "table_wise", (1,)),
        "open": TableSharding("open", "hot_cold", EVERYONE, (), 2, (3, 2**62)),
    },
}


class Reader:
    """Rows by id, as the page says."""

    def __init__(self, folder):
        self.folder = folder
        contents = [json.loads(path.read_text())["content"] for path in sorted(folder.glob("rank-*/manifest.json"))]
        assert all(content["format"] == 1 and content["buckets"] == 1024 for content in contents)
        assert [content["rank"] for content in contents] == list(range(contents[0]["ranks"]))
        self.tables = {table["name"]: table for table in contents[0]["tables"]}
        self.parts = [part for content in contents for part in content["parts"]]

    def array(self, part, name):
        path = self.folder / part["arrays"][name]["path"]
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/"}}
        return np.array(tensorstore.open(spec).result().read().result())

    def rows(self, table, name):
        """{id: its values [dim] or [1] of a variable}; of a dynamic table -2^63 is what other ids share."""
        size, dim = self.tables[table]["vocabulary_size"], self.tables[table]["dim"]
        found = {}
        for part in sorted((part for part in self.parts if part["table"] == table), key=lambda part: part["hot"]):
            first, last = part["columns"]
            values = self.array(part, name)
            if size is None or part["hot"]:
                pairs = zip(self.array(part, "ids").tolist(), values, strict=True)
            else:
                bits = np.frombuffer(bytes.fromhex(part["buckets"]), np.uint8)
                held = np.flatnonzero(np.unpackbits(bits))
                every = ((b + 1024 * d, values[p, d]) for p, b in enumerate(held) for d in range(values.shape[1]))
                pairs = ((number, value) for number, value in every if number < size)
            for number, value in pairs:
                if np.ndim(value):
                    found.setdefault(int(number), np.full(dim, np.nan, np.float32))[first:last] = value
                else:
                    found[int(number)] = np.array([value])
        return found

    def bucket(self, part, number):
        """The ids of a dynamic table's part that are in a bucket."""
        starts = self.array(part, "bucket_starts")
        return self.array(part, "ids")[starts[number] : starts[number + 1]]


@pytest.mark.parametrize("plan", PLANS)
def test_a_reader_of_the_page_finds_every_row_by_id(tmp_path, plan):
    layers = world(TABLES, ShardingPlan(3, PLANS[plan]))
    fill(layers, {"open": IDS})
    for layer in layers:
        save_tables(layer, tmp_path)
    reader = Reader(tmp_path)
    wanted = {"static/one": np.arange(2_500), "small": np.arange(30), "open": np.append(IDS, -(2**63))}
    for table, ids in wanted.items():
        dim = reader.tables[table]["dim"]
        slots = {"RowWiseAdagrad": {"accumulator": [-1]}, "Adam": {"momentum": range(dim), "velocity": range(dim)}}
        for name, columns in {"rows": range(dim), **slots[reader.tables[table]["optimizer"]]}.items():
            found = reader.rows(table, name)
            assert set(found) == set(ids.tolist())
            values = value_of(name, ids, np.array(columns))
            assert all(np.array_equal(found[number], row) for number, row in zip(ids.tolist(), values, strict=True))


def test_a_dynamic_tables_buckets_are_those_of_splitmix64(tmp_path):
    layers = world(TABLES, ShardingPlan(3, PLANS["rows"]))
    fill(layers, {"open": IDS})
    for layer in layers:
        save_tables(layer, tmp_path)
    reader = Reader(tmp_path)
    parts = [part for part in reader.parts if part["table"] == "open"]
    for number in IDS[:20].tolist() + IDS[-3:].tolist():
        bucket = _splitmix64(number % 2**64) >> 54
        assert sum(number in reader.bucket(part, bucket) for part in parts) == 1


def _splitmix64(counter):
    mixed = (counter + 0x9E3779B97F4A7C15) % 2**64
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % 2**64
    return mixed ^ (mixed >> 31)
