"""Logs as GroupLens, RecBole and anyone else write them."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from foundation.errors import UserError
from inputs.config import InputsConfig
from inputs.readers import import_log

DATA = Path(os.environ.get("HEADRACE_DATA", Path(__file__).parents[3].parent / "shared" / "data"))
RATINGS = [(1, 10, 4, 100), (1, 20, 2, 50), (2, 10, 5, 8_000), (2, 30, 3, 8_010)]


def _read(tmp_path, source, layout="movielens", **options):
    return import_log(InputsConfig(format=layout, path=str(source), **options), tmp_path / "out")


def _folder(tmp_path, **files):
    folder = tmp_path / "log"
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_bytes(text.encode("latin-1"))
    return folder


def _rows(dataset):
    table = dataset.events(["user_id", "item_id", "rating", "timestamp"])
    return list(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))


IN_TIME_ORDER = [(1, 20, 2.0, 50), (1, 10, 4.0, 100), (2, 10, 5.0, 8_000), (2, 30, 3.0, 8_010)]


def test_movielens_100k(tmp_path):
    flags = "|".join("1" if genre in (1, 5) else "0" for genre in range(19))
    folder = _folder(
        tmp_path,
        u__data="".join("\t".join(map(str, row)) + "\n" for row in RATINGS),
        u__item=f"10|Caf\xe9 (1995)|01-Jan-1995||http://x|{flags}\n20|Plain|01-Jan-1995||http://x|{'0|' * 18}0\n",
        u__user="1|24|M|technician|85711\n2|old|F|other|94043\n",
    )
    dataset = _read(tmp_path, folder)
    assert _rows(dataset) == IN_TIME_ORDER
    items = {row["item_id"]: row for row in dataset.items.to_pylist()}
    assert items[10]["title"] == "Caf\xe9 (1995)"
    assert items[10]["genres"] == ["Action", "Comedy"]
    assert items[10]["year"] == 1995
    assert items[20]["genres"] == []
    assert items[30]["title"] is None, "an item that only the ratings name"
    assert dataset.users.to_pylist()[0] == {"user_id": 1, "age": 24.0, "gender": "M", "occupation": "technician"}
    assert dataset.users.to_pylist()[1]["age"] is None
    assert dataset.counts["age: not a number, taken as unknown"] == 1
    assert dataset.events(["like"])["like"].to_pylist() == [0.0, 1.0, 1.0, 0.0]


def test_movielens_1m(tmp_path):
    folder = _folder(
        tmp_path,
        ratings__dat="".join("::".join(map(str, row)) + "\n" for row in RATINGS),
        movies__dat="10::Caf\xe9: The Movie (1995)::Action|Comedy\n20::Two (1996)::Drama\n",
        users__dat="1::F::25::10::48067\n2::M::56::16::70072\n7::M::old::16::70072\n",
    )
    dataset = _read(tmp_path, folder)
    assert dataset.users.to_pylist()[2]["age"] is None
    assert dataset.counts["age: not a number, taken as unknown"] == 1
    assert _rows(dataset) == IN_TIME_ORDER
    assert dataset.items.to_pylist()[0]["title"] == "Caf\xe9: The Movie (1995)"
    assert dataset.users.to_pylist()[1] == {"user_id": 2, "gender": "M", "occupation": "16", "age": 56.0}


def test_movielens_csv(tmp_path):
    folder = _folder(
        tmp_path,
        ratings__csv="userId,movieId,rating,timestamp\n" + "".join(",".join(map(str, r)) + "\n" for r in RATINGS),
        movies__csv='movieId,title,genres\n10,"Comma, The (1995)",Action|Comedy\n20,Two,(no genres listed)\n',
    )
    dataset = _read(tmp_path, folder)
    assert _rows(dataset) == IN_TIME_ORDER
    items = dataset.items.to_pylist()
    assert (items[0]["title"], items[0]["genres"]) == ("Comma, The (1995)", ["Action", "Comedy"])
    assert (items[1]["genres"], items[1]["year"]) == ([], None)


def test_recbole(tmp_path):
    folder = _folder(
        tmp_path,
        x__inter="user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        + "".join("\t".join(map(str, row)) + "\n" for row in RATINGS),
        x__item="item_id:token\tmovie_title:token_seq\tclass:token_seq\n10\tA Film\tAction Comedy\n",
    )
    dataset = _read(tmp_path, folder, "recbole")
    assert _rows(dataset) == IN_TIME_ORDER
    assert dataset.items.to_pylist()[0] == {"item_id": 10, "movie_title": "A Film", "class": ["Action", "Comedy"]}


@pytest.mark.parametrize(
    ("file", "column", "message"),
    [
        ("x__inter", "like:float", "context and labels: the name 'like' stands for 2 columns"),
        ("x__inter", "rating:token", r"x.inter: there are 2 columns 'rating'"),
        ("x__item", "id:token", "item features: the name 'id' is taken by headrace's own column"),
    ],
)
def test_recbole_columns_whose_names_collide_are_named(tmp_path, file, column, message):
    events = ["user_id:token\titem_id:token\trating:float\ttimestamp:float", "1\t10\t4\t100"]
    files = {"x__inter": events, "x__item": ["item_id:token", "10"]}
    files[file] = [f"{line}\t{more}" for line, more in zip(files[file], (column, "1"), strict=True)]
    folder = _folder(tmp_path, **{name: "\n".join(lines) + "\n" for name, lines in files.items()})
    with pytest.raises(UserError, match=message):
        _read(tmp_path, folder, "recbole")


def _parquet(tmp_path, **columns):
    path = tmp_path / "events.parquet"
    pq.write_table(pa.table(columns), path)
    return path


COLUMNS = {"user": "who", "item": "what", "time": "when", "labels": {"bought": "binary"}}


def test_columns_of_parquet_with_text_ids_and_dates(tmp_path):
    path = _parquet(
        tmp_path,
        who=["ann", "bob", "ann"],
        what=pa.array([2**60 + 1, 5, 5]),
        when=["2020-01-02 00:00:00", "2020-01-01 00:00:01", "2020-01-03 00:00:00"],
        bought=[True, False, None],
        noise=[1, 2, 3],
    )
    dataset = _read(tmp_path, path, "columns", columns=COLUMNS)
    table = dataset.events(["user_id", "item_id", "timestamp", "bought"]).to_pydict()
    assert table["user_id"] == ["bob", "ann", "ann"]
    assert table["item_id"] == [5, 2**60 + 1, 5]
    assert table["timestamp"] == [1_577_836_801, 1_577_923_200, 1_578_009_600]
    assert table["bought"] == [0.0, 1.0, None]


def test_columns_of_csv_with_item_features_and_no_label(tmp_path):
    folder = _folder(
        tmp_path,
        events__csv="who;what;when\n7;1;1000\n8;2;2000\n",
        items__csv="sku;name;kinds;price;made\n1;One;a|b;2.5;100000\n2;Two;;oops;200000\n",
    )
    dataset = _read(
        tmp_path,
        folder / "events.csv",
        "columns",
        columns={
            **COLUMNS,
            "labels": {},
            "time_unit": "ms",
            "delimiter": ";",
            "item_file": str(folder / "items.csv"),
            "item_id": "sku",
            "item_features": {"name": "text", "kinds": "categories", "price": "number", "made": "time"},
        },
    )
    assert dataset.events(["timestamp", "interaction"]).to_pydict() == {"timestamp": [1, 2], "interaction": [1.0, 1.0]}
    assert dataset.items.to_pylist()[0] == {"item_id": 1, "name": "One", "kinds": ["a", "b"], "price": 2.5, "made": 100}
    assert dataset.items.to_pylist()[1]["price"] is None
    assert dataset.counts["price: not a number, taken as unknown"] == 1


CSV = "userId,movieId,rating,timestamp\n"
BAD_ROWS = {
    "1,10,nan,100": (
        r"ratings.csv: row 3: rating is 'nan': a label must not be NaN",
        "rating: a label must not be NaN",
    ),
    "1,10,inf,100": (
        r"row 3: rating is 'inf': a label must be a finite float32",
        "rating: a label must be a finite float32",
    ),
    "1,10,great,100": (r"row 3: rating is 'great': a number is wanted", "rating: a number is wanted"),
    "1,10,,100": (r"row 3: rating is '': a label must not be empty", "rating: a label must not be empty"),
    "-1,10,4,100": (r"row 3: user_id is '-1': an id must not be negative", "user_id: an id must not be negative"),
    "1,10.5,4,100": (r"row 3: item_id is '10.5': an id must be an integer", "item_id: an id must be an integer"),
    "x,10,4,100": (r"row 3: user_id is 'x': an id must be an integer", "user_id: an id must be an integer"),
    "99999999999999999999,10,4,1": (
        r"user_id is '9+': an id must fit in 64 bits",
        "user_id: an id must fit in 64 bits",
    ),
    "1,10,4,noon": (r"row 3: timestamp is 'noon': a time is wanted", "timestamp: a time is wanted"),
    "1,10,4,-5": (
        r"row 3: timestamp is '-5': a time must not be before 1970",
        "timestamp: a time must not be before 1970",
    ),
    "1,10,4": (r"row 3: 3 columns, 4 are wanted", "rows with another number of columns"),
    "1,10,4,50": (r"1 duplicate rows, such as user 1, item 10, time 50", "duplicate rows"),
}


@pytest.mark.parametrize("row", BAD_ROWS)
def test_a_bad_row_is_named_or_dropped_and_counted(tmp_path, row):
    message, reason = BAD_ROWS[row]
    folder = _folder(tmp_path, ratings__csv=f"{CSV}1,10,3,50\n{row}\n2,20,4,200\n")
    with pytest.raises(UserError, match=message):
        _read(tmp_path, folder)
    assert not (tmp_path / "out").exists()
    dataset = _read(tmp_path, folder, on_bad_row="drop")
    assert dataset.num_events == 2
    assert dataset.counts == {reason: 1}


def test_clip_brings_an_infinite_label_to_the_largest_finite_one(tmp_path):
    folder = _folder(tmp_path, ratings__csv=f"{CSV}1,10,3,50\n1,20,inf,60\n1,30,5,70\n")
    dataset = _read(tmp_path, folder, on_bad_row="clip")
    assert dataset.events(["rating"])["rating"].to_pylist() == [3.0, 5.0, 5.0]
    assert dataset.counts == {"rating: infinite, clipped": 1}


def test_rows_out_of_time_order_are_ordered_and_counted(tmp_path):
    folder = _folder(tmp_path, ratings__csv=f"{CSV}1,10,3,50\n1,20,3,40\n1,30,5,70\n")
    dataset = _read(tmp_path, folder)
    assert dataset.events(["timestamp"])["timestamp"].to_pylist() == [40, 50, 70]
    assert dataset.counts == {"rows put into time order": 1}


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        _read(tmp_path, tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"not a MovieLens folder \(no u.data, ratings.dat or ratings.csv"):
        _read(tmp_path, _folder(tmp_path, other__txt="x"))
    folder = _folder(tmp_path, ratings__csv="userId,movie,rating,timestamp\n1,2,3,4\n")
    with pytest.raises(UserError, match=r"ratings.csv: no column 'movieId'; did you mean 'movie'"):
        _read(tmp_path, folder)
    with pytest.raises(UserError, match=r"ratings.csv: this file is empty"):
        _read(tmp_path, _folder(tmp_path, ratings__csv=""), on_bad_row="drop")
    with pytest.raises(UserError, match="no usable row"):
        _read(tmp_path, _folder(tmp_path, ratings__csv=CSV + "a,b,c,d\n"), on_bad_row="drop")


def test_parquet_that_is_empty_or_cut_short_is_named(tmp_path):
    path = _parquet(tmp_path, who=[1, 2], what=[1, 2], when=[1, 2], bought=[0, 1])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"events.parquet: this file is not whole Parquet"):
        _read(tmp_path, path, "columns", columns=COLUMNS)
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"events.parquet: this file is empty"):
        _read(tmp_path, path, "columns", columns=COLUMNS)


def test_parquet_columns_of_the_wrong_kind_are_named(tmp_path):
    path = _parquet(tmp_path, who=[1.0, 2.5], what=[1, 2], when=[1, 2], bought=[0, 1])
    with pytest.raises(UserError, match=r"row 2: user_id is 2.5: an id must be an integer"):
        _read(tmp_path, path, "columns", columns=COLUMNS)
    path = _parquet(tmp_path, who=[1, 2], what=[1, 2], when=[1, 2], bought=[0.0, 0.5])
    with pytest.raises(UserError, match=r"row 2: bought is 0.5: a binary label is 0 or 1"):
        _read(tmp_path, path, "columns", columns=COLUMNS)
    path = _parquet(tmp_path, who=[1, 2], what=[1, 2], when=[1, 2])
    with pytest.raises(UserError, match=r"events.parquet: no column 'bought'"):
        _read(tmp_path, path, "columns", columns=COLUMNS)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"real data is not at {DATA}")
@pytest.mark.parametrize(
    ("folder", "layout", "events", "users", "items"),
    [
        ("ml-100k", "movielens", 100_000, 943, 1_682),
        ("ml-100k", "recbole", 100_000, 943, 1_682),
        ("ml-latest-small", "movielens", 100_004, 671, 9_125),
    ],
)
def test_the_real_ones(tmp_path, folder, layout, events, users, items):
    dataset = _read(tmp_path, DATA / folder, layout)
    assert dataset.num_events == events
    assert (dataset.users.num_rows, dataset.items.num_rows) == (users, items)
    times = dataset.events(["timestamp", "list_id"])
    starts = np.flatnonzero(np.diff(times["list_id"].to_numpy(), prepend=-1))
    assert (np.diff(times["timestamp"].to_numpy()[starts]) >= 0).all()


@pytest.mark.skipif(not DATA.is_dir(), reason=f"real data is not at {DATA}")
def test_a_real_csv_by_its_columns(tmp_path):
    folder = DATA / "amazon-grocery-rechorus"
    dataset = _read(
        tmp_path,
        folder / "train.csv",
        "columns",
        on_bad_row="drop",
        columns={
            "user": "user_id",
            "item": "item_id",
            "time": "time",
            "delimiter": "\t",
            "item_file": str(folder / "item_meta.csv"),
            "item_features": {"i_category": "category"},
        },
    )
    assert dataset.num_events + dataset.counts.get("duplicate rows", 0) == 121_892
    assert dataset.items["i_category"].null_count == 0
