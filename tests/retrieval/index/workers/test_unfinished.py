"""What is made in many steps appears once, whole, and nobody's work is taken for another's."""

import contextlib

import pytest

from foundation.errors import UserError
from retrieval.index.workers.unfinished import unfinished


def test_what_another_process_made_meanwhile_stays(tmp_path):
    out, plan = tmp_path / "out", {"of": 1}
    with unfinished(out, plan) as work:
        (work / "part").write_text("first")
    with pytest.raises(UserError, match="another process has made it meanwhile"), unfinished(out, plan) as work:
        (work / "part").write_text("second")
    assert [(entry.name, entry.read_text()) for entry in out.iterdir()] == [("part", "first")]
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_it_goes_on_after_an_error_and_only_for_the_same_plan(tmp_path):
    out = tmp_path / "out"
    with contextlib.suppress(InterruptedError), unfinished(out, {"of": 1}) as work:
        (work / "part").write_text("first")
        raise InterruptedError
    assert not out.exists()
    with pytest.raises(UserError, match="of: 1, now 2"), unfinished(out, {"of": 2}):
        pass
    with unfinished(out, {"of": 1}) as work:
        assert (work / "part").read_text() == "first"
    assert [entry.name for entry in out.iterdir()] == ["part"]
