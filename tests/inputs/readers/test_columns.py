"""Logs of anybody's making: what a column holds is kept to the last digit, or refused in words that name it."""

from datetime import date, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from foundation.errors import UserError
from inputs.config import InputsConfig
from inputs.features import FeatureSpace
from inputs.readers import delimited, import_log
from inputs.splits import Split

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
        ({"seconds": pa.array([1.0, 1e300])}, r"row 2: seconds is 1e\+300: a label must be a finite float32"),
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
    path.write_text("who,what,when,seconds,,\n1,1,10,3,,\n")
    assert _import(tmp_path, path).num_events == 1, "a spreadsheet's empty columns"
    path.write_text("who,what,when,seconds,who\n1,1,10,3,1\n")
    with pytest.raises(UserError, match=r"e.csv: there are 2 columns 'who'"):
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
        ({"item_features": {"sku": "category"}, "item_id": "sku"}, "the name 'sku' is taken"),
        ({"item_features": {"user_id": "category"}}, "the name 'user_id' is taken"),
        ({"user_features": {"item_id": "category"}}, "the name 'item_id' is taken"),
        ({"user_features": {"name": "text"}}, "Input should be 'category', 'categories' or 'number'"),
        ({"item_features": {"p": "logged"}}, "Input should be 'category', 'categories', 'number', 'time' or 'text'"),
    ],
)
def test_a_mapping_that_cannot_work_is_refused_before_anything_is_read(tmp_path, mapping, message):
    with pytest.raises(ValidationError, match=message):
        _import(tmp_path, tmp_path / "nowhere.csv", {**COLUMNS, **mapping})


@pytest.mark.parametrize("feature", ["positives", "position"])
def test_an_item_feature_never_takes_the_place_of_headraces_own(tmp_path, feature):
    pq.write_table(pa.table({"sku": [1, 2], feature: [1.0, 2.0]}), tmp_path / "items.parquet")
    described = {"item_file": str(tmp_path / "items.parquet"), "item_id": "sku", "item_features": {feature: "number"}}
    dataset = _import(tmp_path, _parquet(tmp_path / "e.parquet"), {**COLUMNS, **described})
    split = Split(dataset.time_range[1], dataset.time_range[1], dataset.time_range[1] + 1)
    with pytest.raises(UserError, match=rf"the model input 'item_{feature}' is taken"):
        FeatureSpace.fit(dataset, split, InputsConfig(format="simulated"))


def test_a_column_may_play_two_parts(tmp_path):
    path = tmp_path / "e.csv"
    path.write_text("who,what,when\n1,1,10\n2,2,20\n")
    columns = {**COLUMNS, "list": "who", "labels": {"when": "number"}}
    dataset = _import(tmp_path, path, columns)
    assert dataset.events(["when"])["when"].to_pylist() == [10, 20]


def _with_items(tmp_path, *files):
    (tmp_path / "items").mkdir()
    for name, columns in zip("abc", files, strict=False):
        pq.write_table(pa.table(columns), tmp_path / "items" / f"{name}.parquet")
    described = {"item_file": str(tmp_path / "items"), "item_id": "sku", "item_features": {"brand": "category"}}
    return _import(tmp_path, _parquet(tmp_path / "e.parquet"), {**COLUMNS, **described})


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"sku": [2, None], "brand": ["x", "y"]}, r"items/b.parquet: row 2: item_id is None: an id must be an integer"),
        ({"sku": [2], "brand": [["x"]]}, r"items/b.parquet: brand has the type list<.*>: single values are wanted"),
        ({"sku": [2], "band": ["x"]}, r"items/b.parquet: no column 'brand'; did you mean 'band'"),
    ],
)
def test_of_a_folder_of_items_the_file_at_fault_is_named(tmp_path, second, message):
    with pytest.raises(UserError, match=message):
        _with_items(tmp_path, {"sku": [1], "brand": ["x"]}, second)


def test_a_file_of_items_without_a_row_is_named(tmp_path):
    with pytest.raises(UserError, match="items: no usable row in it"):
        _with_items(tmp_path, {"sku": pa.array([], pa.int64()), "brand": pa.array([], pa.string())})


def test_files_of_a_folder_may_differ_in_their_types(tmp_path):
    brands = (pa.array(["x"]), pa.array(["y"]).dictionary_encode(), pa.array([7]))
    dataset = _with_items(tmp_path, *({"sku": [sku], "brand": brand} for sku, brand in enumerate(brands, start=1)))
    assert dataset.items["brand"].to_pylist() == ["x", "y", "7"]


@pytest.mark.parametrize("empty", [None, ""])
def test_a_row_of_no_list_is_named_or_dropped_and_counted(tmp_path, empty):
    _parquet(tmp_path / "log" / "a.parquet", request=["p", "q"])
    _parquet(tmp_path / "log" / "b.parquet", who=[3, 4], request=["r", empty])
    columns = {**COLUMNS, "list": "request"}
    with pytest.raises(UserError, match=r"log/b.parquet: row 2: list_id is .*: an id must not be empty"):
        _import(tmp_path, tmp_path / "log", columns)
    dataset = _import(tmp_path, tmp_path / "log", columns, on_bad_row="drop")
    assert (dataset.num_events, dataset.counts["list_id: an id must not be empty"]) == (3, 1)


def test_a_log_that_clipping_empties_has_no_usable_row(tmp_path):
    path = _parquet(tmp_path / "e.parquet", seconds=[float("inf")] * 2)
    with pytest.raises(UserError, match="no usable row"):
        _import(tmp_path, path, on_bad_row="clip")


@pytest.mark.parametrize("content", [b"[" + b"1" * 200_000 + b"]\n", "who,what,when,seconds\n".encode("utf-16")])
def test_a_first_line_that_is_no_header_is_named(tmp_path, content):
    path = tmp_path / "e.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"e.csv: its first line is no header"):
        _import(tmp_path, path)


@pytest.mark.parametrize("block_bytes", [64, 1 << 20])
def test_quoted_text_may_go_over_several_lines(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(delimited, "BLOCK_BYTES", block_bytes)
    path = tmp_path / "e.csv"
    rows = "".join(f'{row},{row},{row},1,"says\n{"x" * row}\nand more"\n' for row in range(1, 30))
    path.write_text(f'\ufeff\n"who",what,when,seconds,"what they\nsay"\n{rows}')
    assert _import(tmp_path, path).num_events == 29


@pytest.mark.parametrize("delimiter", ['"', "\n", "§"])
def test_a_delimiter_that_cannot_be_one_is_refused(tmp_path, delimiter):
    with pytest.raises(ValidationError, match="must be an ASCII character other than a quote or a line's end"):
        _import(tmp_path, tmp_path / "e.csv", {**COLUMNS, "delimiter": delimiter})


def test_a_list_is_one_users(tmp_path):
    path = tmp_path / "e.csv"
    path.write_text("who,what,when,session\n1,1,10,1\n1,2,11,1\n2,3,10,1\n2,4,12,2\n")
    dataset = _import(tmp_path, path, {**COLUMNS, "labels": {}, "list": "session"})
    events = dataset.events(["user_id", "list_id"]).to_pydict()
    users = {}
    for user, number in zip(events["user_id"], events["list_id"], strict=True):
        users.setdefault(number, set()).add(user)
    assert sorted(map(sorted, users.values())) == [[1], [2], [2]]


def test_an_empty_category_is_unknown(tmp_path):
    path, items = tmp_path / "e.csv", tmp_path / "items.csv"
    path.write_text("who,what,when,device\n1,1,10,tv\n1,2,11,\n")
    items.write_text("sku,brand,tags\n1,b,x|y\n2,,\n")
    described = {
        "item_file": str(items),
        "item_id": "sku",
        "item_features": {"brand": "category", "tags": "categories"},
    }
    columns = {**COLUMNS, "labels": {}, "context": {"device": "category"}, **described}
    dataset = _import(tmp_path, path, columns)
    assert dataset.events(["device"])["device"].to_pylist() == ["tv", None]
    assert dataset.items.select(["brand", "tags"]).to_pylist()[1] == {"brand": None, "tags": None}
