"""When a group is started again, with how many, and when no more: over attempts that fail as they are told to."""

import signal

import pytest

from foundation.errors import UserError
from trainer.job import TrainingConfig
from trainer.launch import _slots
from trainer.supervisor.account import GroupFailed
from trainer.supervisor.environment import PREEMPTED
from trainer.supervisor.interrupts import Interrupts
from trainer.supervisor.survive import Survival, survive

KILLED = "was killed by SIGKILL"


def _fails(rank, step=None, what=KILLED, phase=None, came=False):
    """A failure of a rank at a step; None: before its first, or before it joined the others, unless it came."""
    short = f"rank {rank} {what}"
    place = None if step is None else ("retrieval", step, phase)
    return GroupFailed(f"{short}.", "remedy", rank, short, place, came or step is not None, struck=what == KILLED)


@pytest.fixture
def lived_through(monkeypatch):
    """lived_through(survival, workers, (failure or None, committed afterwards), ...) -> (slots of each attempt, seconds
    of each pause), or raises what `survive` does."""

    def run(survival, workers, *story):
        told, attempts, pauses = iter(story), [], []
        committed = "the beginning"
        monkeypatch.setattr("trainer.supervisor.survive._wait", lambda seconds, _: pauses.append(seconds))

        def attempt(slots):
            nonlocal committed
            attempts.append(list(slots))
            failure, committed = next(told)
            if failure is not None:
                raise failure

        survive(attempt, workers, survival, lambda: committed)
        assert next(told, None) is None, "all of it was lived through"
        return attempts, pauses

    return run


def test_pauses_double_until_more_is_committed(lived_through):
    story = [(_fails(1, 7), "6"), (_fails(0, 8), "6"), (_fails(1, 9), "6"), (_fails(1, 13), "12"), (None, "")]
    attempts, pauses = lived_through(Survival(restarts=4, longest_pause=3.0), 2, *story)
    assert attempts == [[0, 1]] * 5
    assert pauses == [1.0, 2.0, 3.0, 1.0]


def test_the_budget_is_for_all_failures(lived_through):
    with pytest.raises(GroupFailed, match=r"rank 0 was killed by SIGKILL\.\n2 of 2 restarts are used up"):
        lived_through(Survival(restarts=2), 2, (_fails(1, 7), "6"), (_fails(1, 13), "12"), (_fails(0, 20), "18"))


def test_without_restarts_the_failure_is_told_as_it_is(lived_through):
    with pytest.raises(GroupFailed) as raised:
        lived_through(Survival(restarts=0), 2, (_fails(1, 7), "6"))
    assert raised.value.message == "rank 1 was killed by SIGKILL."


def test_the_same_step_twice_is_given_up_with_the_first_cause(lived_through):
    first, second = _fails(1, 7), _fails(0, 7, "ended with exit code 3")
    with pytest.raises(GroupFailed) as raised:
        lived_through(Survival(restarts=9), 2, (first, "6"), (second, "6"))
    assert raised.value.message == (
        "rank 1 was killed by SIGKILL.\nIt ends at step 7 of retrieval, twice in a row, from 6: not started again."
    )
    assert raised.value.remedy == "remedy"


@pytest.mark.parametrize(
    "between",
    [
        [(_fails(1, 8), "6")],  # another step
        [(_fails(1, 7, phase="checkpoint"), "6")],  # another place
        [(_fails(1), "6")],  # before a step
    ],
)
def test_the_same_step_with_another_between_is_no_proof(lived_through, between):
    lived_through(Survival(restarts=9), 2, (_fails(1, 7), "6"), *between, (_fails(1, 7), "6"), (None, ""))


def test_the_same_step_after_progress_is_no_proof(lived_through):
    lived_through(Survival(restarts=9), 2, (_fails(1, 7), "retrieval 6"), (_fails(1, 7), "ranking 6"), (None, ""))


def test_at_the_start_the_same_words_are_given_up_and_signals_are_not(lived_through):
    with pytest.raises(GroupFailed, match="It ends so at its start, twice in a row"):
        lived_through(Survival(restarts=9), 2, *[(_fails(1, what="ended with exit code 1"), "")] * 2)
    lived_through(Survival(restarts=9), 2, (_fails(1), ""), (_fails(1), ""), (_fails(1), ""), (None, ""))


def test_a_users_error_is_not_tried_again(lived_through):
    with pytest.raises(UserError, match="mend it"):
        lived_through(Survival(), 2, (UserError("mend it"), ""))


def test_a_slot_that_is_lost_is_done_without(lived_through, capsys):
    story = [(_fails(1), "6"), (_fails(1), "6"), (None, "")]
    attempts, pauses = lived_through(Survival(restarts=3, least_workers=1), 3, *story)
    assert attempts == [[0, 1, 2], [0, 1, 2], [0, 2]]
    assert pauses == [1.0, 0.0]
    assert "it does not come back. Going on with 2 workers of 3, from 6." in capsys.readouterr().err


def test_what_came_and_ends_before_its_first_step_is_not_lost(lived_through):
    failures = [(_fails(1, what="ended with exit code 1", came=True), "6")] * 2
    with pytest.raises(GroupFailed, match="It ends so at its start, twice in a row"):
        lived_through(Survival(restarts=3, least_workers=1), 2, *failures)


@pytest.mark.parametrize(("number", "end"), [(signal.SIGTERM, PREEMPTED), (signal.SIGHUP, 128 + signal.SIGHUP)])
def test_a_signal_between_two_attempts_ends_the_command(number, end):
    def committed():
        signal.raise_signal(number)  # while what the attempt left is swept up
        return "6"

    def attempt(slots):
        raise _fails(1, 7)

    with pytest.raises(SystemExit) as raised:
        survive(attempt, 2, Survival(restarts=1), committed)
    assert raised.value.code == end


def test_a_signal_before_the_next_attempt_heeds_them_is_not_lost():
    with Interrupts() as around:
        signal.raise_signal(signal.SIGTERM)
        with Interrupts() as inside:
            signal.raise_signal(signal.SIGINT)
            assert inside.received == [signal.SIGTERM, signal.SIGINT]
        assert around.received == [signal.SIGTERM]


def test_the_next_restart_tries_the_lost_slot_once(lived_through):
    lost = [(_fails(2), "6"), (_fails(2), "6")]
    again = [(_fails(1, 9), "6"), (_fails(2), "6"), (_fails(0, 14), "12"), (None, "")]
    attempts, _ = lived_through(Survival(restarts=3, least_workers=2), 3, *lost, *again)
    assert attempts == [[0, 1, 2], [0, 1, 2], [0, 1], [0, 1, 2], [0, 1], [0, 1, 2]]


def test_no_fewer_than_allowed(lived_through):
    story = [(_fails(1), ""), (_fails(1), ""), (_fails(1, what="ended with exit code 9"), "")]
    with pytest.raises(GroupFailed, match="1 of 1 restarts are used up"):
        lived_through(Survival(restarts=1, least_workers=2), 3, *story)


def test_another_slot_may_be_the_lost_one(lived_through):
    story = [(_fails(1), ""), (_fails(1), ""), (_fails(0), ""), (_fails(0), ""), (None, "")]
    attempts, _ = lived_through(Survival(restarts=9, least_workers=1), 2, *story)
    assert attempts == [[0, 1], [0, 1], [0], [0, 1], [1]]


def test_every_process_of_a_parameter_server_job_has_a_slot(lived_through):
    """A server that is killed is one of the group's ranks like any, and starts it again."""
    slots = _slots(TrainingConfig(strategy="parameter_server", workers=2, servers=1))
    attempts, _ = lived_through(Survival(restarts=1), slots, (_fails(3, 5), "4"), (None, ""))
    assert attempts == [[0, 1, 2, 3]] * 2
