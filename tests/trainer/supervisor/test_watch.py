"""Which rank failed first, by what is known of each."""

import time

import pytest

from trainer.supervisor.watch import Failure, How, PatientClock, Standing, Timeouts, first_failure

TIMEOUTS = Timeouts(join=50.0, silent=5.0, stuck=20.0, grace=2.0)


def _well(rank, **known):
    return Standing(rank, **{"joined": 0.0, "heard": 100.0, "step": 7, "moved": 99.0, **known})


@pytest.mark.parametrize(
    ("standings", "failure"),
    [
        ([_well(0), _well(1)], None),
        ([_well(0), _well(1, heard=None, ended=50.0, status=0)], None),
        ([Standing(0), Standing(1, ended=50.0, status=0)], None),
        ([_well(0, ended=99.0, status=1), _well(1, ended=98.0, status=1)], Failure(1, How.ENDED)),
        ([_well(0, ended=99.0, status=1), _well(1, ended=99.0, status=-9)], Failure(1, How.ENDED)),
        ([_well(0, ended=99.0, status=1), _well(1, failing=98.5)], None),
        ([_well(0, ended=99.0, status=1), _well(1, failing=97.0)], Failure(1, How.LINGERING, 3.0)),
        ([_well(0), _well(1, failing=97.0, ended=98.0, status=0)], None),
        ([_well(0), Standing(1)], Failure(1, How.ABSENT, 100.0)),
        ([_well(0, joined=60.0), Standing(1)], None),
        ([_well(0, joined=60.0), Standing(1, ended=99.0, status=0)], Failure(1, How.ABSENT, 40.0)),
        ([_well(0, heard=94.0), _well(1, heard=93.0)], Failure(1, How.SILENT, 7.0)),
        ([_well(0, moved=70.0), _well(1, moved=75.0, step=6)], Failure(1, How.STUCK, 25.0)),
        ([_well(0, moved=1.0, phase="validation"), _well(1)], None),
    ],
)
def test_first_failure(standings, failure):
    assert first_failure(standings, 100.0, TIMEOUTS) == failure


def test_the_clock_does_not_count_what_the_supervisor_itself_missed():
    clock = PatientClock()
    clock.LONGEST_ROUND = 0.01
    time.sleep(0.1)
    clock.advance()
    assert clock.now == 0.01
