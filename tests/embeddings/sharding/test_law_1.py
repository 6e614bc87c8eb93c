"""Law 1: any number of ranks, under any sharding type, train what one process trains."""

from pathlib import Path

import numpy as np
import pytest

from embeddings.sharding import KINDS
from strategies import create_strategy
from tests.embeddings.sharding import training_program
from tests.embeddings.sharding.groups import run_group

PROGRAM = Path(training_program.__file__)
COVERING = [
    "table_wise+ahead",
    "column_wise+pooled",
    "hot_cold+dynamic",
    "row_wise+rejecting",
    "row_wise+pooled",
    "hot_cold+pooled",
    "data_parallel+dynamic",
]
EVERYTHING = [*KINDS, *(f"{kind}+{how}" for kind in KINDS for how in ("dynamic", "rejecting", "ahead", "pooled"))]
EVERYTHING.remove("hot_cold+rejecting")  # is refused
RTOL = 1e-5


def _trained(folder, ranks, steps, scenarios, devices=None):
    """What each rank left, or the first of a process' `devices` replicas, by scenario: [rank] arrays by name."""
    run_group(PROGRAM, [str(folder), str(steps), *scenarios], ranks, devices)
    return {each: [np.load(folder / f"{each}-{rank}.npz") for rank in range(ranks)] for each in scenarios}


def _same(ours, alone):
    """Whether losses and tables are those of one process, to RTOL of the largest value."""
    return all(np.allclose(ours[name], alone[name], rtol=RTOL, atol=RTOL * np.abs(alone[name]).max()) for name in alone)


def _assert_same(alone, together):
    wrong = [
        f"{scenario}, rank {rank}"
        for scenario, ranks in together.items()
        for rank, ours in enumerate(ranks)
        if not _same(ours, alone[_tables_of(scenario)])
    ]
    assert not wrong


def _tables_of(scenario):
    """One process' scenario of the same tables and batches: how they would be spread, or a step begun, is nothing to
    it."""
    how = scenario.partition("+")[2]
    return f"row_wise+{how}" if how in ("dynamic", "rejecting", "pooled") else "row_wise"


@pytest.fixture(scope="module")
def alone():
    """What one process, this one, trains in so many steps, by scenario; trained once."""
    trained = {}

    def of(steps):
        if steps not in trained:
            scenarios = ["row_wise", "row_wise+dynamic", "row_wise+rejecting", "row_wise+pooled"]
            single = create_strategy("single")
            trained[steps] = {scenario: training_program.train(single, scenario, steps) for scenario in scenarios}
        return trained[steps]

    return of


def test_two_ranks_train_what_one_does_and_a_broken_exchange_is_seen(alone, tmp_path):
    """The check can fail: last, vectors and gradients come back in another order."""
    together = _trained(tmp_path, 2, 40, [*COVERING, "row_wise+broken"])
    broken = together.pop("row_wise+broken")
    _assert_same(alone(40), together)
    assert not _same(broken[0], alone(40)["row_wise"])


@pytest.mark.parametrize(
    ("devices", "scenarios"),
    [
        (2, ["table_wise+dynamic", "hot_cold+pooled"]),
        pytest.param(4, ["row_wise+rejecting", "column_wise"], marks=pytest.mark.long),
    ],
)
def test_replicas_of_one_process_train_what_one_does(alone, tmp_path, devices, scenarios):
    _assert_same(alone(40), _trained(tmp_path, 1, 40, scenarios, devices))


@pytest.mark.long
@pytest.mark.parametrize("ranks", [2, 4])
def test_every_sharding_type_at_every_size(alone, tmp_path, ranks):
    _assert_same(alone(200), _trained(tmp_path, ranks, 200, EVERYTHING))


@pytest.mark.long
@pytest.mark.parametrize("devices", [2, 4])
def test_every_sharding_type_over_any_number_of_replicas(alone, tmp_path, devices):
    scenarios = [each for each in EVERYTHING if "ahead" not in each]
    _assert_same(alone(200), _trained(tmp_path, 1, 200, scenarios, devices))
