"""A dataset is whole or not there; what is wrong with it is said."""

import json

import numpy as np
import pyarrow as pa
import pytest

import inputs.dataset as dataset_module
from foundation.errors import UserError
from inputs.dataset import Dataset, DatasetWriter
from inputs.schema import Schema


def test_what_was_written_is_read_back(make_dataset):
    dataset, (users, items, events) = make_dataset()
    assert dataset.users.equals(users)
    assert dataset.items.equals(items)
    assert dataset.events(dataset.schema.event_columns).equals(events.select(dataset.schema.event_columns))
    assert dataset.num_events == events.num_rows
    assert dataset.time_range == (events["timestamp"][0].as_py(), events["timestamp"][-1].as_py())


def test_a_slice_of_events_crosses_row_groups(make_dataset, monkeypatch):
    monkeypatch.setattr(dataset_module, "ROWS_PER_GROUP", 33)
    monkeypatch.setattr(dataset_module, "ROWS_PER_FILE", 300)
    dataset, (_, _, events) = make_dataset()
    assert len(dataset.row_groups) > 20
    assert len({group.file for group in dataset.row_groups}) > 2
    assert dataset.events(["item_id"], 20, 640)["item_id"].to_pylist() == events["item_id"].to_pylist()[20:640]


def test_lists_never_straddle_row_groups(make_dataset, monkeypatch):
    monkeypatch.setattr(dataset_module, "ROWS_PER_GROUP", 33)
    dataset, _ = make_dataset()
    lists = [set(table["list_id"].to_pylist()) for table in dataset.scan(["list_id"])]
    assert sum(map(len, lists)) == len(set.union(*lists))


def test_the_same_content_has_the_same_fingerprint(make_dataset):
    (first, _), (second, _), (other, _) = make_dataset("a"), make_dataset("b"), make_dataset("c", seed=1)
    assert first.fingerprint == second.fingerprint != other.fingerprint


def test_an_error_while_writing_leaves_nothing(make_dataset, tmp_path):
    _, (users, _, _) = make_dataset()

    def write_half():
        with DatasetWriter(tmp_path / "half", Schema(), "x") as writer:
            writer.write_users(users)
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        write_half()
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


@pytest.mark.parametrize(
    ("mend", "message"),
    [
        (lambda t: t.take(pa.array(np.arange(t.num_rows)[::-1])), "out of time order"),
        (lambda t: t.set_column(3, "list_id", pa.array([0, 1] * (t.num_rows // 2))), "stand together"),
        (lambda t: t.drop_columns(["click"]), "no column click"),
    ],
)
def test_a_writer_that_breaks_the_contract_is_stopped(make_dataset, tmp_path, mend, message):
    dataset, (_, _, events) = make_dataset()
    with (
        pytest.raises(ValueError, match=message),
        DatasetWriter(tmp_path / "bad", dataset.schema, "x") as writer,
    ):
        writer.write_events(mend(events))
    assert not (tmp_path / "bad").exists()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing: not a dataset \(no such folder\)"):
        Dataset.open(tmp_path / "nothing")


def test_a_truncated_part_is_named(make_dataset):
    dataset, _ = make_dataset()
    part = dataset.path / "events" / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"part-00000.parquet: this part of the dataset is .* bytes long"):
        Dataset.open(dataset.path)


def test_a_damaged_part_of_the_right_length_is_named(make_dataset):
    dataset, _ = make_dataset()
    part = dataset.path / "events" / "part-00000.parquet"
    part.write_bytes(b"\0" * part.stat().st_size)
    with pytest.raises(UserError, match=r"part-00000.parquet: cannot be read"):
        Dataset.open(dataset.path).events(["item_id"])


def test_a_manifest_that_is_not_json_is_named(make_dataset):
    dataset, _ = make_dataset()
    (dataset.path / "dataset.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        Dataset.open(dataset.path)


def test_a_manifest_of_another_format_is_refused(make_dataset):
    dataset, _ = make_dataset()
    manifest = json.loads((dataset.path / "dataset.json").read_text())
    (dataset.path / "dataset.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(UserError, match="not a dataset of format 1"):
        Dataset.open(dataset.path)


def test_an_unknown_column_suggests_the_nearest(make_dataset):
    dataset, _ = make_dataset()
    with pytest.raises(UserError, match="no column 'clik'; did you mean 'click'"):
        dataset.events(["clik"])
