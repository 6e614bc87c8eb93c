"""MovieLens as GroupLens ships it: 100K (`u.data`), 1M and 10M (`.dat`), 20M, 25M, 32M and latest (CSV)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from foundation.errors import UserError
from inputs.cleaning import Cleaner, lenient_numbers
from inputs.config import InputsConfig
from inputs.readers.delimited import header, need_columns, text_blocks, whole_text
from inputs.readers.rawlog import RATING_LABELS, EventColumns, RawLog, described, entities, typed_events, with_likes
from inputs.readers.recbole import described_features
from inputs.schema import ITEM, USER, Feature

RATING = ("user", "item", "rating", "time")
_GENRES_100K = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]


def read_movielens(config: InputsConfig, cleaner_of: Callable[..., Cleaner]) -> RawLog:
    """Reads whichever layout the folder `config.path` holds.

    Raises:
      UserError: the folder is missing or holds none of the three layouts.
    """
    folder = Path(str(config.path))
    if not folder.exists():
        raise UserError(f"{folder}: no such folder.", "Check inputs.path: the folder of an unpacked MovieLens archive.")
    for file, layout in (("u.data", _layout_100k), ("ratings.dat", _layout_dat), ("ratings.csv", _layout_csv)):
        if (folder / file).exists():
            return layout(folder, cleaner_of)
    raise UserError(
        f"{folder}: not a MovieLens folder (no u.data, ratings.dat or ratings.csv in it).",
        "Check inputs.path: the folder of an unpacked MovieLens archive.",
    )


def _layout_100k(folder: Path, cleaner_of: Callable[..., Cleaner]) -> RawLog:
    events = _ratings(folder / "u.data", cleaner_of, delimiter="\t", names=RATING, quoted=False)
    items, users = _items_100k(folder, events, cleaner_of), _users_100k(folder, events, cleaner_of)
    return _log("MovieLens 100K", folder, events, users, items)


def _items_100k(folder: Path, events: pa.Table, cleaner_of: Callable[..., Cleaner]) -> pa.Table | None:
    path = folder / "u.item"
    if not path.exists():
        return described_features(folder, "item", events, cleaner_of, {"movie_title": "title", "class": "genres"})
    names = ["movie", "title", "date", "video_date", "url", *_GENRES_100K]
    cleaner = cleaner_of(path)
    table = whole_text(path, cleaner, delimiter="|", names=names, quoted=False, encoding="latin-1")
    flags = [pc.if_else(pc.equal(table.column(genre), "1"), genre, "") for genre in _GENRES_100K]
    genres = pc.utf8_trim(pc.binary_join_element_wise(*flags, "|"), "|")
    return _described_movies(table.column("movie"), table.column("title"), genres, events, cleaner)


def _users_100k(folder: Path, events: pa.Table, cleaner_of: Callable[..., Cleaner]) -> pa.Table | None:
    path = folder / "u.user"
    if not path.exists():
        return described_features(folder, "user", events, cleaner_of, {}, leave_out=("zip_code",))
    cleaner = cleaner_of(path)
    table = whole_text(path, cleaner, delimiter="|", names=["user", "age", "gender", "occupation", "zip"], quoted=False)
    return described(
        pa.table(
            {
                "user": table.column("user"),
                "age": lenient_numbers(table.column("age"), "age", cleaner),
                "gender": table.column("gender"),
                "occupation": table.column("occupation"),
            }
        ),
        USER,
        "user",
        events.column(USER).type,
        cleaner,
    )


def _layout_dat(folder: Path, cleaner_of: Callable[..., Cleaner]) -> RawLog:
    events = _ratings(folder / "ratings.dat", cleaner_of, delimiter="::", names=RATING, quoted=False)
    items, users = None, None
    if (folder / "movies.dat").exists():
        cleaner = cleaner_of(folder / "movies.dat")
        movies = ("movie", "title", "genres")
        encoding = _encoding(folder / "movies.dat")
        table = whole_text(
            folder / "movies.dat", cleaner, delimiter="::", names=movies, quoted=False, encoding=encoding
        )
        items = _described_movies(table.column("movie"), table.column("title"), table.column("genres"), events, cleaner)
    if (folder / "users.dat").exists():
        cleaner = cleaner_of(folder / "users.dat")
        names = ("user", "gender", "age", "occupation", "zip")
        table = whole_text(folder / "users.dat", cleaner, delimiter="::", names=names, quoted=False)
        age = lenient_numbers(table.column("age"), "age", cleaner)
        columns = {name: table.column(name) for name in ("user", "gender", "occupation")}
        users = described(pa.table({**columns, "age": age}), USER, "user", events.column(USER).type, cleaner)
    return _log("MovieLens (.dat)", folder, events, users, items)


def _layout_csv(folder: Path, cleaner_of: Callable[..., Cleaner]) -> RawLog:
    path = folder / "ratings.csv"
    need_columns(path, header(path, ","), ("userId", "movieId", "rating", "timestamp"))
    columns = EventColumns("userId", "movieId", "timestamp", {"rating": "number"}, {})
    cleaner = cleaner_of(path, header_rows=1)
    events = with_likes(typed_events(text_blocks(path, cleaner), columns, cleaner))
    items = None
    if (folder / "movies.csv").exists():
        cleaner = cleaner_of(folder / "movies.csv", header_rows=1)
        need_columns(folder / "movies.csv", header(folder / "movies.csv", ","), ("movieId", "title", "genres"))
        table = whole_text(folder / "movies.csv", cleaner)
        items = _described_movies(
            table.column("movieId"), table.column("title"), table.column("genres"), events, cleaner
        )
    return _log("MovieLens (CSV)", folder, events, None, items)


def _ratings(path: Path, cleaner_of: Callable[..., Cleaner], **options: Any) -> pa.Table:
    cleaner = cleaner_of(path)
    columns = EventColumns("user", "item", "time", {"rating": "number"}, {})
    return with_likes(typed_events(text_blocks(path, cleaner, **options), columns, cleaner))


def _described_movies(
    ids: pa.ChunkedArray, titles: pa.ChunkedArray, genres: pa.ChunkedArray, events: pa.Table, cleaner: Cleaner
) -> pa.Table:
    """Title, genres and the year that the title ends with."""
    years = pc.struct_field(pc.extract_regex(titles, r"\((?P<year>\d{4})\)\s*$"), "year")
    listed = pc.if_else(pc.equal(genres, "(no genres listed)"), "", genres)
    split = pc.split_pattern_regex(listed, r"\|+")
    table = pa.table(
        {"movie": ids, "title": titles, "genres": _without_empty(split), "year": pc.cast(years, pa.float32())}
    )
    return described(table, ITEM, "movie", events.column(ITEM).type, cleaner)


def _without_empty(lists: pa.ChunkedArray) -> pa.ChunkedArray:
    """A list of one empty string is what splitting an empty string gives: it means no genre."""
    only_empty = pc.equal(pc.binary_join(lists, ""), "")
    return pc.if_else(only_empty, pa.scalar([], lists.type), lists)


def _encoding(path: Path) -> str:
    """1M's movies.dat is Latin-1, 10M's is UTF-8."""
    try:
        path.read_bytes().decode()
    except UnicodeDecodeError:
        return "latin-1"
    return "utf8"


def _log(name: str, folder: Path, events: pa.Table, users: pa.Table | None, items: pa.Table | None) -> RawLog:
    users = entities(events.column(USER), USER, users)
    items = entities(events.column(ITEM), ITEM, items)
    return RawLog(
        f"{name}, {folder.name}",
        events,
        users,
        items,
        RATING_LABELS,
        user_features=_features(users, USER),
        item_features=_features(items, ITEM),
    )


def _features(table: pa.Table, key: str) -> tuple[Feature, ...]:
    kinds = {"title": "text", "genres": "categories", "year": "number", "release_year": "number", "age": "number"}
    names = [name for name in table.column_names if name != key]
    return tuple(Feature.model_validate({"name": name, "kind": kinds.get(name, "category")}) for name in names)
