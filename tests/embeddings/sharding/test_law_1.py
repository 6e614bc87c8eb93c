"""Law 1: any number of ranks, under any sharding type, train what one process trains."""

from pathlib import Path

import numpy as np
import pytest

from embeddings.sharding import KINDS
from tests.embeddings.sharding.groups import run_group

PROGRAM = Path(__file__).parent / "training_program.py"
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


def _assert_same(folder, ranks, steps, scenarios, devices=None):
    alone = _trained(folder / "alone", 1, steps, scenarios)
    together = _trained(folder / "together", ranks, steps, scenarios, devices)
    wrong = [
        f"{each}, rank {rank}"
        for each in scenarios
        for rank, ours in enumerate(together[each])
        if not _same(ours, alone[each][0])
    ]
    assert not wrong


@pytest.fixture
def folder(tmp_path):
    for name in ("alone", "together"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_two_ranks_train_what_one_does(folder):
    _assert_same(folder, 2, 40, COVERING)


@pytest.mark.parametrize(
    ("devices", "scenarios"),
    [
        (2, ["table_wise+dynamic", "hot_cold+pooled"]),
        pytest.param(4, ["row_wise+rejecting", "column_wise"], marks=pytest.mark.long),
    ],
)
def test_replicas_of_one_process_train_what_one_does(folder, devices, scenarios):
    _assert_same(folder, 1, 40, scenarios, devices)


def test_a_broken_exchange_is_seen(folder):
    """The check above can fail: here vectors and gradients come back in another order."""
    alone = _trained(folder / "alone", 1, 10, ["row_wise"])
    together = _trained(folder / "together", 2, 10, ["row_wise+broken"])
    assert not _same(together["row_wise+broken"][0], alone["row_wise"][0])


@pytest.mark.long
@pytest.mark.parametrize("ranks", [2, 4])
def test_every_sharding_type_at_every_size(folder, ranks):
    _assert_same(folder, ranks, 200, EVERYTHING)


@pytest.mark.long
@pytest.mark.parametrize("devices", [2, 4])
def test_every_sharding_type_over_any_number_of_replicas(folder, devices):
    _assert_same(folder, 1, 200, [each for each in EVERYTHING if "ahead" not in each], devices)
