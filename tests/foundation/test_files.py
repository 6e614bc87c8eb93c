"""A file or folder exists whole or not at all."""

import errno
import json
import os
from pathlib import Path

import pytest

from foundation.errors import UserError
from foundation.files import (
    atomic_directory,
    atomic_file,
    disk_errors,
    read_json,
    see_writable,
    sweep_partial,
    write_json,
)


def test_a_file_appears_only_when_its_block_ends_well(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    with atomic_file(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.txt"]


def test_a_failed_file_leaves_the_old_one_and_no_rest(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half():
        with atomic_file(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        write_half()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_replaces_the_old_one_whole(tmp_path):
    path = tmp_path / "folder"
    for content in ("first", "second"):
        with atomic_directory(path) as temporary:
            (temporary / content).write_text(content)
    assert [entry.name for entry in path.iterdir()] == ["second"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_a_failed_folder_leaves_nothing(tmp_path):
    def write_half():
        with atomic_directory(tmp_path / "folder") as temporary:
            (temporary / "half").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_what_killed_writers_left_is_swept_and_the_rest_is_not(tmp_path):
    (tmp_path / ".a.txt.123.partial").write_text("half")
    (tmp_path / ".folder.123.partial").mkdir()
    (tmp_path / "kept.txt").write_text("whole")
    (tmp_path / ".kept.txt.123.old").write_text("before")
    (tmp_path / ".notes.old").write_text("the user's own")
    assert len(sweep_partial(tmp_path)) == 3
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".notes.old", "kept.txt"]
    assert (tmp_path / "kept.txt").read_text() == "whole"


def test_a_kill_between_the_two_renames_of_a_replacement_loses_nothing(tmp_path, monkeypatch):
    with atomic_directory(tmp_path / "a") as folder:
        (folder / "x").write_text("committed")
    rename = os.rename

    def killed(source, target):
        if Path(target) == tmp_path / "a":
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", killed)
        with pytest.raises(KeyboardInterrupt), atomic_directory(tmp_path / "a") as folder:
            (folder / "x").write_text("new")
    assert not (tmp_path / "a").exists()
    sweep_partial(tmp_path)
    assert (tmp_path / "a" / "x").read_text() == "committed"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EROFS, "cannot be written"),
        (errno.EACCES, "cannot be"),
        (errno.ENAMETOOLONG, "cannot be written"),
    ],
)
def test_what_the_disk_refuses_is_said_with_its_path(tmp_path, number, words):
    with pytest.raises(UserError, match=words) as caught, disk_errors(tmp_path / "x"):
        raise OSError(number, "refused")
    assert str(tmp_path / "x") in caught.value.message


def test_a_path_through_a_file_is_refused_with_its_name(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "x", tmp_path / "file" / "deep" / "x", tmp_path / "folder"):
        with pytest.raises(UserError, match="cannot be written") as caught:
            write_json(path, {})
        assert str(path) in caught.value.message
        with pytest.raises(UserError, match="cannot be written"):
            see_writable(path)
    for path in (tmp_path / "file" / "x", tmp_path / "file" / "deep" / "x"):
        with pytest.raises(UserError, match="cannot be written"), atomic_directory(path):
            pass
    see_writable(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


def test_json_round_trip_and_its_errors(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, 2]})
    assert read_json(tmp_path / "a.json", "the record") == {"b": [1, 2]}
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": [1, 2]}
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UserError, match=r"bad\.json: the record is not valid JSON"):
        read_json(tmp_path / "bad.json", "the record")
    with pytest.raises(UserError, match=r"none\.json: the record is missing"):
        read_json(tmp_path / "none.json", "the record")
    with pytest.raises(UserError, match=r"x: the record is missing"):
        read_json(tmp_path / "a.json" / "x", "the record")
    with pytest.raises(UserError, match="the record cannot be read"):
        read_json(tmp_path, "the record")
