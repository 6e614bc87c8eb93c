"""Tables files: read as they are meant, and what is wrong told at once."""

import pytest
import yaml

from embeddings.planner import load_tables
from foundation.errors import UserError

TABLES = {
    "batch_size": 1024,
    "dense_features": 3,
    "dense_mlp": [32, 1],
    "tables": [
        {"name": "video", "rows": 1000, "dim": 16, "pooling_factor": 5, "zipf_alpha": 1.05, "features": 2},
        {"name": "topic", "rows": 10, "dim": 8, "optimizer": "Adam", "copies": 3},
    ],
}


@pytest.fixture
def written(tmp_path):
    """Writes the tables above with some keys changed; returns the path."""

    def write(table=None, **keys):
        document = {**TABLES, **keys}
        if table is not None:
            document["tables"] = [{"name": "t", "rows": 10, "dim": 4, **table}]
        path = tmp_path / "tables.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in document.items() if value is not None}))
        return path

    return write


def test_tables_and_dense_layers_are_read(written):
    workload = load_tables(written())
    assert [table.name for table in workload.tables] == ["video", "topic.0", "topic.1", "topic.2"]
    video, topic = workload.tables[:2]
    assert (video.ids_per_example, video.optimizer, topic.optimizer) == (10, "RowWiseAdagrad", "Adam")
    width = 2 * 16 + 3 * 8 + 3
    assert workload.dense.flops == 6 * (width * 32 + 32)
    assert workload.dense.parameters == width * 32 + 32 + 32 + 1
    assert load_tables(written(dense_input=7)).dense.flops == 6 * (7 * 32 + 32)
    assert load_tables(written(dense_mlp=None)).dense.layers == 0


def test_features_of_one_table_may_have_pooling_factors_of_their_own(written):
    (table,) = load_tables(written({"pooling_factors": [1, 10]})).tables
    assert (table.features, table.factors, table.ids_per_example) == (2, (1, 10), 11)
    (alike,) = load_tables(written({"pooling_factor": 3, "features": 2})).tables
    assert alike.factors == (3, 3)


@pytest.mark.parametrize(
    ("optimizer", "slots"), [("SGD", 0), ("RowWiseAdagrad", 4), ("Adagrad", 64), ("Adam", 128), ("FTRL", 128)]
)
def test_bytes_of_rows_and_slots(written, optimizer, slots):
    (table,) = load_tables(written({"rows": 10, "dim": 16, "optimizer": optimizer})).tables
    assert table.bytes_of(10) == 10 * (64 + slots)
    (table,) = load_tables(written({"dim": 16, "optimizer": optimizer, "precision": "bfloat16"})).tables
    assert table.bytes_of(10) == 10 * (32 + slots)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"rows": 0}, "tables.0.rows: Input should be greater than or equal to 1"),
        ({"rows": "many"}, "tables.0.rows: Input should be a valid integer"),
        ({"row": 5}, "tables.0.row: unknown key; did you mean 'rows'?"),
        ({"dim": -1}, "tables.0.dim"),
        ({"pooling_factor": 0}, "tables.0.pooling_factor: Input should be greater than 0"),
        ({"pooling_factor": float("nan")}, "tables.0.pooling_factor"),
        ({"zipf_alpha": -1}, "tables.0.zipf_alpha"),
        ({"optimizer": "adagrad"}, "tables.0.optimizer: no optimizer 'adagrad'; did you mean 'Adagrad'?"),
        ({"precision": "int8"}, "tables.0.precision"),
        ({"features": 0}, "tables.0.features"),
        ({"pooling_factors": [2, 0]}, "tables.0.pooling_factors.1: Input should be greater than 0"),
        ({"pooling_factors": [2, 1], "features": 2}, "tables.0: pooling_factors says how many features there are"),
    ],
)
def test_a_wrong_table_is_named(written, table, message):
    path = written(table)
    with pytest.raises(UserError) as error:
        load_tables(path)
    assert f"{path}: 1 problem in the tables file" in error.value.message
    assert message in error.value.message


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"batch_size": None}, "batch_size: this key is missing"),
        ({"batch_size": 0}, "batch_size: Input should be greater than or equal to 1"),
        ({"tables": None}, "tables: this key is missing"),
        ({"tables": []}, "tables: there is none"),
        ({"dense_mlp": [64, 0]}, "dense_mlp: every width is at least 1; found [64, 0]"),
        ({"dense": [64]}, "dense: unknown key"),
    ],
)
def test_a_wrong_key_is_named(written, keys, message):
    with pytest.raises(UserError) as error:
        load_tables(written(**keys))
    assert message in error.value.message


def test_two_tables_of_one_name(written):
    twice = [{"name": "t", "rows": 10, "dim": 4}, {"name": "t", "rows": 20, "dim": 4}]
    with pytest.raises(UserError, match="two are named 't'"):
        load_tables(written(tables=twice))


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.yaml: cannot be read"):
        load_tables(tmp_path / "nowhere.yaml")
