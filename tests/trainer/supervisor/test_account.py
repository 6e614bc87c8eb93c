"""What a failure is said to be; the common ones are in test_failures.py."""

from pathlib import Path

import pytest

from trainer.supervisor.account import account
from trainer.supervisor.watch import Failure, How, Standing


@pytest.mark.parametrize(
    ("failure", "first", "said"),
    [
        (Failure(0, How.ENDED), Standing(0, status=3), "ended with exit code 3."),
        (Failure(0, How.ENDED), Standing(0, joined=1.0, status=-11), "was killed by SIGSEGV before its first step."),
        (
            Failure(0, How.LINGERING, 5.4),
            Standing(0, joined=1.0, step=9, reason="OSError: no", status=None),
            "failed (OSError: no) and did not end within 5 s, at step 9.",
        ),
        (
            Failure(0, How.ABSENT, 300.2),
            Standing(0, status=-9),
            "did not join the others, who waited 300 s (a signal stopped it).",
        ),
    ],
)
def test_the_first_line(failure, first, said):
    error = account(failure, [first], {0} if failure.how is How.ABSENT else (), [], None)
    assert error.message == f"rank 0 of 1 {said}"
    assert error.remedy == ""


def test_what_became_of_the_others():
    standings = [
        Standing(0, joined=1.0, step=9, status=-15),
        Standing(1, joined=1.0, step=8, status=1),
        Standing(2, joined=1.0, step=10, ended=5.0, status=0),
        Standing(3, joined=1.0, step=9, status=None),
        Standing(4, joined=1.0, step=7, status=-9),
    ]
    error = account(Failure(1, How.ENDED), standings, {4}, ["a", "b"], Path("logs"))
    assert error.message == (
        "rank 1 of 5 ended with exit code 1 at step 8.\nIts last lines:\n  a\n  b\n"
        "Ended with it: rank 0 at step 9 (SIGTERM); rank 2 at step 10 (finished before); "
        "rank 3 at step 9 (not ended even by SIGKILL); rank 4 at step 7 (stopped by a signal, then SIGKILL)."
    )
    assert error.remedy == "Its whole log: logs/rank-1.log"
