"""RecBole's atomic files: tab-separated, each column named `name:type`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from foundation.errors import UserError
from inputs.cleaning import Cleaner, as_text, lenient_numbers
from inputs.config import InputsConfig
from inputs.readers.delimited import header, text_blocks, whole_text
from inputs.readers.rawlog import RATING_LABELS, EventColumns, RawLog, described, entities, typed_events, with_likes
from inputs.schema import ITEM, TIME, USER, Feature, FeatureKind, Label

_KINDS: dict[str, FeatureKind] = {"token": "category", "token_seq": "categories", "float": "number"}
_TITLE_WORDS = ("title", "name")


def read_recbole(config: InputsConfig, cleaner_of: Callable[..., Cleaner]) -> RawLog:
    """Reads `NAME.inter` and, where they are, `NAME.item` and `NAME.user` of the folder `config.path`.

    Raises:
      UserError: the folder or the .inter file is missing, or it lacks `user_id`, `item_id` or `timestamp`.
    """
    folder = Path(str(config.path))
    path = _file(folder, "inter")
    if path is None:
        found = "no such folder" if not folder.exists() else "no .inter file in it"
        raise UserError(f"{folder}: not a folder of RecBole atomic files ({found}).", "Check inputs.path.")
    types = _types(path)
    for wanted in (USER, ITEM, TIME):
        if wanted not in types:
            raise UserError(
                f"{path}: no column '{wanted}'; it has {', '.join(types)}.", "headrace splits logs by time."
            )
    extra = {name: kind for name, kind in types.items() if name not in (USER, ITEM, TIME)}
    labels = {name: "number" for name, kind in extra.items() if kind == "float"}
    context: dict[str, str] = {name: "category" for name, kind in extra.items() if kind == "token"}
    cleaner = cleaner_of(path, header_rows=1)
    blocks = text_blocks(path, cleaner, delimiter="\t", names=None, quoted=False)
    columns = EventColumns(USER, ITEM, TIME, labels, context)
    events = typed_events((_untyped(block) for block in blocks), columns, cleaner)
    described_as: tuple[Label, ...] = tuple(Label(name=name, kind="number") for name in labels)
    if "rating" in labels:
        events = with_likes(events)
        described_as = RATING_LABELS + tuple(label for label in described_as if label.name != "rating")
    users, items = (described_features(folder, kind, events, cleaner_of, {}) for kind in ("user", "item"))
    users, items = entities(events.column(USER), USER, users), entities(events.column(ITEM), ITEM, items)
    return RawLog(
        f"RecBole, {path.stem}",
        events,
        users,
        items,
        described_as,
        tuple(Feature(name=name, kind="category") for name in context),
        _features(users, USER),
        _features(items, ITEM),
    )


def described_features(
    folder: Path,
    kind: str,
    events: pa.Table,
    cleaner_of: Callable[..., Cleaner],
    renamed: Mapping[str, str],
    leave_out: Sequence[str] = (),
) -> pa.Table | None:
    """The features of users or items in `NAME.user` or `NAME.item`; None when there is no such file."""
    path = _file(folder, kind)
    if path is None:
        return None
    key = {"user": USER, "item": ITEM}[kind]
    types = _types(path)
    if key not in types:
        raise UserError(f"{path}: no column '{key}'; it has {', '.join(types)}.")
    cleaner = cleaner_of(path, header_rows=1)
    table = _untyped(whole_text(path, cleaner, delimiter="\t", quoted=False))
    columns = {key: table.column(key)}
    for name, type_name in types.items():
        if name == key or name in leave_out:
            continue
        column = table.column(name)
        if type_name == "token_seq" and not any(word in name for word in _TITLE_WORDS):
            columns[renamed.get(name, name)] = pc.utf8_split_whitespace(as_text(column, name, cleaner))
        elif type_name == "float" or name.endswith("year") or name == "age":
            columns[renamed.get(name, name)] = lenient_numbers(column, name, cleaner)
        elif type_name in ("token", "token_seq"):
            columns[renamed.get(name, name)] = as_text(column, name, cleaner)
        else:
            cleaner.count(f"{kind} column {name} of type {type_name}: not read", 1)
    return described(pa.table(columns), key, key, events.column(key).type, cleaner)


def _file(folder: Path, kind: str) -> Path | None:
    return next(iter(sorted(folder.glob(f"*.{kind}"))), None)


def _types(path: Path) -> dict[str, str]:
    """Column name -> RecBole type."""
    pairs = [name.rpartition(":") for name in header(path, "\t", quoted=False)]
    wrong = [right for left, _, right in pairs if not left or right not in (*_KINDS, "float_seq")]
    if wrong:
        raise UserError(
            f"{path}: the header is not RecBole's: {wrong[0]!r} is not 'name:type'.",
            "Types are token, token_seq, float and float_seq.",
        )
    names = [left for left, _, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}: there are {names.count(name)} columns '{name}'.", "Rename all but one.")
    return {left: right for left, _, right in pairs}


def _untyped(table: pa.Table) -> pa.Table:
    return table.rename_columns([name.rpartition(":")[0] for name in table.column_names])


def _features(table: pa.Table, key: str) -> tuple[Feature, ...]:
    def kind(field: pa.Field) -> FeatureKind:
        if pa.types.is_list(field.type):
            return "categories"
        if pa.types.is_floating(field.type):
            return "number"
        return "text" if any(word in field.name for word in _TITLE_WORDS) else "category"

    return tuple(Feature(name=field.name, kind=kind(field)) for field in table.schema if field.name != key)
