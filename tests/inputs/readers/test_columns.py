"""Logs of anybody's making: what a column holds is kept to the last digit, or refused in words that name it."""

from datetime import date, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from foundation.errors import UserError
from inputs.config import InputsConfig
from inputs.readers import delimited, import_log

COLUMNS = {"user": "who", "item": "what", "time": "when", "labels": {"seconds": "number"}}
GOOD = {"who": [1, 2], "what": [1, 2], "when": [100, 200], "seconds": [1.0, 2.0]}


def _import(tmp_path, path, columns=COLUMNS, **options):
    return import_log(InputsConfig(format="columns", path=str(path), columns=columns, **options), tmp_path / "out")


def _parquet(path, **columns):
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({**GOOD, **columns}), path)
    return path


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"who": pa.array([1, 2**63], pa.uint64())}, r"row 2: user_id is 9223372036854775808: an id must fit in 64"),
        ({"who": pa.array([1.0, 2.0**60])}, r"row 2: user_id is .*: an id must be written without a decimal point"),
        ({"who": pa.array([[1], [2]])}, r"e.parquet: user_id has the type list<.*>: text or integers are wanted"),
        ({"when": pa.array([[1], [2]])}, r"e.parquet: timestamp has the type list<.*>: times .* are wanted"),
        ({"seconds": pa.array([[1.0], [2.0]])}, r"e.parquet: seconds has the type list<.*>: numbers are wanted"),
        ({"seconds": pa.array([date(2020, 1, 1)] * 2)}, r"e.parquet: seconds has the type date32.*: numbers"),
        ({"seconds": pa.array([1.0, 1e300])}, r"row 2: seconds is 1e\+300: a label must be finite as a float32"),
    ],
)
def test_a_column_that_cannot_be_read_is_named_with_its_type(tmp_path, column, message):
    with pytest.raises(UserError, match=message):
        _import(tmp_path, _parquet(tmp_path / "e.parquet", **column))
    assert not (tmp_path / "out").exists()


def test_nanoseconds_are_times(tmp_path):
    when = pa.array([1_577_836_800_123_456_789, 1_577_836_801_999_999_999]).cast(pa.timestamp("ns"))
    dataset = _import(tmp_path, _parquet(tmp_path / "e.parquet", when=when))
    assert dataset.time_range == (1_577_836_800, 1_577_836_801)


def test_a_bad_row_in_a_folder_is_named_with_its_own_file(tmp_path):
    _parquet(tmp_path / "log" / "a.parquet")
    _parquet(tmp_path / "log" / "b.parquet", when=[300, 400], seconds=[1.0, float("nan")])
    with pytest.raises(UserError, match=r"log/b.parquet: row 2: seconds is nan: a label must not be NaN"):
        _import(tmp_path, tmp_path / "log")


@pytest.mark.parametrize("block_bytes", [64, 1 << 20])
def test_clip_looks_at_the_whole_log_whatever_its_blocks(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(delimited, "BLOCK_BYTES", block_bytes)
    rows = [(1, 1, 10, 3), (1, 2, 20, "inf"), (2, 1, 30, 4), (2, 2, 40, "1e300"), (3, 1, 50, 9), (3, 2, 60, "-inf")]
    path = tmp_path / "e.csv"
    path.write_text("who,what,when,seconds\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
    dataset = _import(tmp_path, path, on_bad_row="clip")
    assert dataset.events(["seconds"])["seconds"].to_pylist() == [3, 9, 4, 9, 9, 3]
    assert dataset.counts == {"seconds: infinite, clipped": 3}


@pytest.mark.parametrize(
    "made",
    [
        pa.array([1_577_836_801, None]),
        pa.array(["2020-01-01T00:00:01Z", "unknown"]),
        pa.array([datetime(2020, 1, 1, 0, 0, 1), None], pa.timestamp("us")),
    ],
)
def test_an_items_time_is_kept_to_the_second_in_any_form(tmp_path, made):
    pq.write_table(pa.table({"sku": [1, 2], "made": made}), tmp_path / "items.parquet")
    described = {"item_file": str(tmp_path / "items.parquet"), "item_id": "sku", "item_features": {"made": "time"}}
    dataset = _import(tmp_path, _parquet(tmp_path / "e.parquet"), {**COLUMNS, **described})
    assert dataset.items["made"].to_pylist() == [1_577_836_801, None]
    assert dataset.counts.get("made: not a time, taken as unknown", 0) == (1 if pa.types.is_string(made.type) else 0)


def test_headers_may_be_quoted_and_must_be_distinct(tmp_path):
    path = tmp_path / "e.csv"
    path.write_text('"who","what","when","seconds","a, b"\n1,1,10,3,x\n')
    assert _import(tmp_path, path).num_events == 1
    path.write_text("who,what,when,seconds,who\n1,1,10,3,1\n")
    with pytest.raises(UserError, match=r"e.csv: the header names column 'who' 2 times"):
        _import(tmp_path, path)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (
            {"labels": {"seconds": "number"}, "context": {"seconds": "number"}},
            "the name 'seconds' stands for 2 columns",
        ),
        ({"context": {"timestamp": "number"}}, "the name 'timestamp' is taken by headrace's own column"),
        ({"context": {"device": "categories"}}, "Input should be 'category', 'number' or 'logged'"),
        ({"user_features": {"name": "text"}}, "Input should be 'category', 'categories' or 'number'"),
        ({"item_features": {"p": "logged"}}, "Input should be 'category', 'categories', 'number', 'time' or 'text'"),
    ],
)
def test_a_mapping_that_cannot_work_is_refused_before_anything_is_read(tmp_path, mapping, message):
    with pytest.raises(ValidationError, match=message):
        _import(tmp_path, tmp_path / "nowhere.csv", {**COLUMNS, **mapping})


@pytest.mark.parametrize("feature", ["id", "positives"])
def test_an_item_feature_never_takes_the_place_of_headraces_own(tmp_path, feature):
    pq.write_table(pa.table({"sku": [1, 2], feature: [1.0, 2.0]}), tmp_path / "items.parquet")
    described = {"item_file": str(tmp_path / "items.parquet"), "item_id": "sku", "item_features": {feature: "number"}}
    with pytest.raises(UserError, match=r"'id' is taken|two item features make the model input 'item_positives'"):
        _fit(_import(tmp_path, _parquet(tmp_path / "e.parquet"), {**COLUMNS, **described}))


def _fit(dataset):
    from inputs.features import FeatureSpace
    from inputs.splits import Split

    split = Split(dataset.time_range[1], dataset.time_range[1], dataset.time_range[1] + 1)
    FeatureSpace.fit(dataset, split, InputsConfig(format="simulated"))
