"""Replicas of one process: their exchanges compared with numpy, what the strategy gives a step, and bad input."""

from pathlib import Path

import numpy as np
import pytest

from foundation.errors import UserError
from foundation.tf import tf
from strategies import LocalCommunicator, MirroredStrategy, create_strategy
from strategies.mirrored import DEVICES
from tests.embeddings.sharding.groups import run_group
from tests.strategies.communicator_cases import CASES, parts_of, sizes_of, values_of
from tests.strategies.mirrored_program import DTYPES, EPOCHS, ROUNDS, STEPS

RANKS = 3
PROGRAM = Path(__file__).with_name("mirrored_program.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mirrored")
    run_group(PROGRAM, [str(folder)], 1, devices=RANKS)
    return dict(np.load(folder / "found.npz"))


def test_one_process_is_all_ranks(found):
    assert found["topology"].tolist() == [RANKS, RANKS, RANKS, 1]


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_exchanges_are_numpys(found, mode, dtype):
    values = [values_of(rank, (4, 3)) for rank in range(RANKS)]
    for rank in range(RANKS):
        for case in CASES:
            wanted = parts_of(sizes_of(case, RANKS), (3,), rank)
            np.testing.assert_array_equal(found[f"every_kind/{mode}/all_to_all/{case}/{dtype}/{rank}"], wanted)
        np.testing.assert_array_equal(found[f"every_kind/{mode}/all_gather/{dtype}/{rank}"], np.concatenate(values))
        np.testing.assert_array_equal(found[f"every_kind/{mode}/all_reduce/{dtype}/{rank}"], sum(values))
        np.testing.assert_array_equal(found[f"every_kind/{mode}/broadcast/{dtype}/{rank}"], values[1])


def test_replicas_exchange_in_a_backward_pass_and_between_the_rounds_of_a_loop(found):
    for rank in range(RANKS):
        weight = (rank + 1) % RANKS + 1  # that of the rank where the rows were
        wanted = values_of(rank, (4, 3)) + ROUNDS * weight
        np.testing.assert_array_equal(found[f"in_a_backward_pass_and_a_loop/rows/{rank}"], wanted)


def test_each_replica_takes_from_its_own_iterator_without_tracing_anew(found):
    wanted = np.zeros((RANKS, 2))
    for rank in range(RANKS):
        for k in range(STEPS):
            wanted[rank] += sum(range(rank)) + k, sum(range(rank, rank + k)) + 10 * rank
    for epoch in range(EPOCHS):
        np.testing.assert_array_equal(found[f"steps_from_datasets/totals/{epoch}"], wanted.reshape(-1))
    assert found["steps_from_datasets/traces"] == 1


def test_gradients_that_a_step_sums_itself_are_applied_as_they_are(found):
    assert found["dense_gradients/iterations"] == 6
    for rank in range(RANKS):
        own = found[f"dense_gradients/by hand/{rank}"]
        np.testing.assert_array_equal(own, found["dense_gradients/by hand/0"])
        np.testing.assert_allclose(own, found[f"dense_gradients/by Keras/{rank}"], rtol=1e-6)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("rank", "can be asked within strategy.run alone"),
        ("outside", "within strategy.run alone"),
        ("outside, of a replica", "replicas exchange only within a step"),
        ("root", f"root is {RANKS}; ranks are 0 to {RANKS - 1}"),
        ("cover", "split"),
        ("cover, traced", "split"),
        ("branch", "control flow"),
        ("ranks", f"batches of 1 ranks were given; there are {RANKS}"),
    ],
)
def test_what_cannot_be_is_said(found, case, message):
    assert message in str(found[f"errors/{case}"])


def test_an_error_does_not_spoil_the_next_exchange(found):
    assert found["errors/after"] == str(float(RANKS))


def test_one_device_is_one_rank(monkeypatch):
    monkeypatch.delenv(DEVICES, raising=False)
    strategy = create_strategy("mirrored")
    assert isinstance(strategy.communicator, LocalCommunicator)
    [value] = strategy.distribute([[2.0]])
    assert strategy.run(lambda value: value * 2.0, value) == 4.0
    assert (strategy.topology.ranks, list(strategy.ranks)) == (1, [0])


@pytest.mark.parametrize(
    ("asked", "message"),
    [("two", "HEADRACE_DEVICES is 'two'"), ("2.5", "a whole number"), ("0", "0 devices"), ("-1", "At least one")],
)
def test_a_number_of_devices_that_is_none_is_said(monkeypatch, asked, message):
    monkeypatch.setenv(DEVICES, asked)
    with pytest.raises(UserError, match=message):
        create_strategy("mirrored")


def test_a_processor_that_tensorflow_has_taken_is_not_divided():
    devices = len(tf.config.list_logical_devices("CPU")) + 1
    with pytest.raises(UserError, match=rf"{devices} devices[\s\S]*has begun with[\s\S]*before anything else"):
        MirroredStrategy(devices)


def test_no_more_gpus_are_used_than_there_are(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a GPU"] * 2)
    with pytest.raises(UserError, match=r"4 devices are asked for; TensorFlow sees 2 GPUs[\s\S]*at most 2"):
        MirroredStrategy(4)
