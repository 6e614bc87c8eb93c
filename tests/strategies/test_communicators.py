"""Every communicator's exchanges between real processes, compared with numpy."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from foundation.errors import UserError
from strategies.shared_memory.communicator import LIBRARY
from tests.embeddings.sharding.groups import run_group
from tests.strategies.communicator_cases import (
    CALLS,
    CASES,
    DTYPES,
    LARGE_ROWS,
    LARGE_WIDTH,
    LOOPS,
    RANDOM_ROUNDS,
    parts_of,
    random_sizes,
    shapes_of,
    sizes_of,
    values_of,
)
from tests.strategies.horovodrun import horovodrun

PROGRAM = Path(__file__).with_name("communicator_program.py")


def _group(kind: str, ranks: int, long: bool = False):
    return pytest.param((kind, ranks), id=f"{kind}-{ranks}", marks=[pytest.mark.long] if long else [])


GROUPS = [_group(kind, 2) for kind in ("collectives", "shared_memory", "horovod")]
GROUPS += [_group(kind, 3, long=True) for kind in ("collectives", "shared_memory", "horovod")]


@pytest.fixture(scope="module", params=GROUPS)
def group(request, tmp_path_factory):
    """(kind, what each rank found)."""
    kind, ranks = request.param
    folder = tmp_path_factory.mktemp(f"{kind}-{ranks}")
    if kind == "horovod":
        if find_spec("horovod") is None:
            pytest.skip("Horovod is not installed; `make horovod` builds it")
        horovodrun(ranks, PROGRAM, kind, folder)
    else:
        if kind == "shared_memory":
            _skip_without_a_compiler()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HEADRACE_EXCHANGE", kind)
            run_group(PROGRAM, [kind, str(folder)], ranks)
    return kind, [dict(np.load(folder / f"rank-{rank}.npz")) for rank in range(ranks)]


def _skip_without_a_compiler():
    try:
        LIBRARY.path()
    except UserError as error:
        pytest.skip(error.message)


@pytest.fixture
def results(group):
    return group[1]


@pytest.fixture
def more_results(group):
    """Of communicators that promise more than TensorFlow's collectives do."""
    if group[0] == "collectives":
        pytest.skip("collectives do not promise it")
    return group[1]


def test_the_topology_is_what_was_started(results):
    ranks = len(results)
    assert [found["topology"].tolist() for found in results] == [[ranks, ranks, r == 0] for r in range(ranks)]


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_all_to_all_brings_each_rank_its_rows_in_the_order_of_senders(results, mode, case, dtype):
    for name, shape in shapes_of(dtype).items():
        for rank, found in enumerate(results):
            wanted = parts_of(sizes_of(case, len(results)), shape, rank)
            np.testing.assert_array_equal(found[f"every_kind/{mode}/all_to_all/{case}/{dtype}/{name}"], wanted)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gathered_reduced_and_broadcast_values_are_numpys(results, mode, dtype):
    values = [values_of(rank, (4, 3)) for rank in range(len(results))]
    for found in results:
        np.testing.assert_array_equal(found[f"every_kind/{mode}/all_gather/{dtype}"], np.concatenate(values))
        np.testing.assert_array_equal(found[f"every_kind/{mode}/all_reduce/{dtype}"], sum(values))
        np.testing.assert_array_equal(found[f"every_kind/{mode}/broadcast/{dtype}"], values[1])
        assert found[f"every_kind/{mode}/all_reduce/scalar"] == sum(range(1, len(results) + 1))
        assert found[f"every_kind/{mode}/all_reduce/no rows"].shape == (0, 3)


def test_rows_go_round_in_a_loop(results):
    ranks = len(results)
    for rank, found in enumerate(results):
        wanted = values_of((rank - LOOPS) % ranks, (4, 3)) + LOOPS
        np.testing.assert_array_equal(found["loop_of_exchanges/rows"], wanted)


def test_rounds_of_a_loop_that_need_nothing_of_each_other_are_not_confused(results):
    total = sum(values_of(rank, (4, 3)) for rank in range(len(results)))
    for found in results:
        np.testing.assert_array_equal(found["loop_of_rounds_apart/total"], total * (sum(range(LOOPS)) + LOOPS // 2))
        np.testing.assert_array_equal(found["loop_of_rounds_apart/after"], total)


def test_twenty_calls_in_no_order_are_paired_rightly(results):
    ranks = len(results)
    for rank, found in enumerate(results):
        for k in range(CALLS):
            kind = ("all_reduce", "all_gather", "broadcast", "all_to_all")[k % 4]
            values = [values_of(r, (4, 3), salt=k) for r in range(ranks)]
            wanted = {
                "all_reduce": sum(values),
                "all_gather": np.concatenate(values),
                "broadcast": values[0],
                "all_to_all": parts_of(sizes_of("uneven", ranks), (3,), rank, salt=k),
            }
            np.testing.assert_array_equal(found[f"twenty_in_no_order/{kind}/{k}"], wanted[kind])


def test_calls_that_come_in_another_order_on_each_rank_do_not_wait_for_ever(results):
    for found in results:
        for k in range(CALLS):
            wanted = sum(values_of(rank, (4, 3), salt=k) for rank in range(len(results)))
            np.testing.assert_allclose(found[f"in_another_order_on_each_rank/{k}"], wanted, atol=1e-3)


def test_functions_inside_functions_take_part(results):
    ranks = len(results)
    total = sum(values_of(rank, (4, 3)) for rank in range(ranks))
    for found in results:
        for added, name in enumerate(("first", "second", "third")):
            np.testing.assert_array_equal(found[f"nested/{name}"], 3 * (total + added * ranks))
        np.testing.assert_array_equal(found["nested/own"], total)


def test_constants_are_exchanged_like_anything_else(results):
    for found in results:
        assert found["constants/value"].tolist() == [5.0]
        assert found["constants/twice"].tolist() == [2.0 * rank for rank in range(len(results))]
        assert found["constants/thrice"].tolist() == [3.0 * rank for rank in range(len(results))]
        assert found["constants/none"].shape == (0,)


def test_ranks_that_do_not_read_a_result_take_part(results):
    total = sum(values_of(rank, (4, 3)) for rank in range(len(results)))
    np.testing.assert_array_equal(results[0]["unread/sum"], total)


def test_sizes_may_be_others_each_time(results):
    ranks = len(results)
    for rank, found in enumerate(results):
        for k in range(RANDOM_ROUNDS):
            wanted = parts_of(random_sizes(k, ranks), (3,), rank, salt=k)
            np.testing.assert_array_equal(found[f"random_rounds/{k}"], wanted)


def test_a_payload_may_be_large(results):
    ranks = len(results)
    values = np.arange(ranks * LARGE_ROWS * LARGE_WIDTH).reshape(ranks, LARGE_ROWS, LARGE_WIDTH)
    for rank, found in enumerate(results):
        wanted = np.concatenate([(values[rank] + sender).sum(1) for sender in range(ranks)])[::997]
        np.testing.assert_array_equal(found["large/received"], wanted)
        np.testing.assert_array_equal(found["large/total"], values[-1, -1] * ranks + sum(range(ranks)))


def test_ranks_that_trace_oftener_take_part(more_results):
    total = sum(values_of(rank, (4, 3)) for rank in range(len(more_results)))
    for found in more_results:
        np.testing.assert_array_equal(found["retraced/gathered"], np.concatenate([total] * len(more_results)))


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_what_ranks_do_not_agree_on_is_said(more_results, mode):
    for found in more_results:
        assert "sizes do not cover the rows" in str(found[f"errors/{mode}/cover"])
        assert "ranks are 0 to" in str(found["errors/root"])
    assert "another rank has other sizes" in str(more_results[1][f"errors/{mode}/disagree"])
