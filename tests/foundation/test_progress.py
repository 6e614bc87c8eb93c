"""On a pipe, progress is a line now and then."""

from foundation import progress as module
from foundation.progress import progress


def test_a_pipe_gets_a_first_and_a_last_line(capsys, monkeypatch):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 3600.0)
    with progress("training", 100, "steps") as meter:
        for _ in range(10):
            meter.advance(10, "loss 0.5")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 or (len(lines) == 2 and lines[0].startswith("training: 10 of 100 steps"))
    assert lines[-1].startswith("training: 100 of 100 steps")
    assert lines[-1].endswith("loss 0.5")


def test_a_resumed_meter_counts_from_where_it_stood():
    with progress("training", 100, "steps", done=40) as meter:
        meter.advance(10)
    assert meter.done == 50
