"""Horovod's exchanges between real processes, compared with numpy.

This file is also what each rank runs: `horovodrun -np 2 python test_horovod.py FOLDER` does every case once, eagerly
and in a tf.function, and writes what it got to FOLDER/rank-R.npz; the tests read that.
"""

from __future__ import annotations

import faulthandler
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import pytest

from foundation.errors import UserError
from foundation.tf import tf
from strategies import horovod
from strategies.horovod import HorovodStrategy

ROOT = Path(__file__).parents[2]
built = pytest.mark.skipif(find_spec("horovod") is None, reason="Horovod is not installed; `make horovod` builds it")

DTYPES = ("int64", "int32", "float32", "bfloat16", "float16")
SHAPES = {"flat": (), "rows": (3,), "blocks": (2, 5)}
LOOPS = 6


def sizes_of(case: str, ranks: int) -> np.ndarray:
    """[ranks, ranks] int64: how many rows go from whom to whom."""
    sizes = np.random.default_rng(len(case)).integers(1, 9, (ranks, ranks))
    if case == "with empty parts":
        sizes[np.arange(ranks), (np.arange(ranks) + 1) % ranks] = 0
    elif case == "one sends nothing":
        sizes[0] = 0
    elif case == "one receives nothing":
        sizes[:, -1] = 0
    elif case == "nothing at all":
        sizes[:] = 0
    return sizes


CASES = ("uneven", "with empty parts", "one sends nothing", "one receives nothing", "nothing at all")


def values_of(rank: int, shape: tuple[int, ...], salt: int = 0) -> np.ndarray:
    """Whole numbers small enough for every dtype to hold them and their sums."""
    return np.random.default_rng([rank, salt]).integers(0, 40, shape).astype(np.float32)


def parts_of(case: str, ranks: int, shape: tuple[int, ...], receiver: int, salt: int = 0) -> np.ndarray:
    """What an all-to-all gives `receiver`."""
    sizes = sizes_of(case, ranks)
    parts = []
    for sender in range(ranks):
        start = sizes[sender, :receiver].sum()
        rows = values_of(sender, (sizes[sender].sum(), *shape), salt)
        parts.append(rows[start : start + sizes[sender, receiver]])
    return np.concatenate(parts)


# What a rank does.


def all_cases(strategy: HorovodStrategy) -> dict[str, np.ndarray]:
    communicator = strategy.communicator
    rank, ranks = communicator.rank, communicator.size
    found = {"topology": np.array([strategy.topology.ranks, strategy.topology.ranks_per_host, strategy.is_chief])}

    for mode, wrapped in (("eager", lambda step: step), ("graph", tf.function)):
        # Lengths unknown when it is traced, as a batch's are.
        exchange = wrapped(communicator.all_to_all)
        for case in CASES:
            sizes = sizes_of(case, ranks)
            for dtype in DTYPES:
                for name, shape in SHAPES.items():
                    rows = tf.cast(values_of(rank, (sizes[rank].sum(), *shape)), dtype)
                    received = exchange(rows, tf.constant(sizes))
                    assert received.dtype == rows.dtype
                    found[f"{mode}/all_to_all/{case}/{dtype}/{name}"] = tf.cast(received, tf.float32).numpy()
        for dtype in DTYPES:
            value = tf.cast(values_of(rank, (4, 3)), dtype)
            results = {
                "all_gather": wrapped(communicator.all_gather)(value),
                "all_reduce": wrapped(communicator.all_reduce)(value),
                "broadcast": wrapped(lambda value: communicator.broadcast(value, root=1))(value),
            }
            for kind, result in results.items():
                assert result.dtype == value.dtype
                found[f"{mode}/{kind}/{dtype}"] = tf.cast(result, tf.float32).numpy()
        found[f"{mode}/all_reduce/scalar"] = wrapped(communicator.all_reduce)(tf.constant(rank + 1.0)).numpy()
        found[f"{mode}/all_reduce/no rows"] = wrapped(communicator.all_reduce)(tf.zeros((0, 3))).numpy()
    for case in (loop_of_exchanges, loop_of_rounds_apart, twenty_in_no_order, nested, constants, unread, retraced):
        found |= {f"{case.__name__}/{name}": np.asarray(value) for name, value in case(communicator).items()}
    found |= {f"errors/{name}": np.array(message) for name, message in errors(communicator).items()}
    strategy.barrier()
    return found


def loop_of_exchanges(communicator) -> dict[str, tf.Tensor]:
    """Rows go round and round: each round needs the one before."""
    ranks = communicator.size
    sizes = np.roll(np.eye(ranks, dtype=np.int64) * 4, 1, axis=1)  # all to the next rank

    @tf.function(input_signature=[tf.TensorSpec([None, 3])])
    def around(rows):
        for _ in tf.range(LOOPS):
            rows = communicator.all_to_all(rows, tf.constant(sizes)) + 1.0
            rows.set_shape([None, 3])
        return rows

    return {"rows": around(tf.constant(values_of(communicator.rank, (4, 3))))}


def loop_of_rounds_apart(communicator) -> dict[str, tf.Tensor]:
    """No round needs another, so TensorFlow would start several at once; and another call stands after the loop."""

    @tf.function
    def step(value):
        total = tf.zeros_like(value)
        for k in tf.range(LOOPS):
            total += communicator.all_reduce(value * tf.cast(k, tf.float32))
            if k % 2 == 0:
                total += communicator.all_reduce(value)
        return total, communicator.all_reduce(value)

    total, after = step(tf.constant(values_of(communicator.rank, (4, 3))))
    return {"total": total, "after": after}


def twenty_in_no_order(communicator) -> dict[str, tf.Tensor]:
    """Twenty calls of which none needs another, three times over."""
    rank, ranks = communicator.rank, communicator.size

    @tf.function
    def step(salted):
        results = {}
        for k in range(20):
            kind = ("all_reduce", "all_gather", "broadcast", "all_to_all")[k % 4]
            with tf.name_scope(f"layer_{rank}"):  # names of scopes may differ
                if kind == "all_to_all":
                    results[f"{kind}/{k}"] = communicator.all_to_all(salted[k], tf.constant(sizes_of("uneven", ranks)))
                else:
                    results[f"{kind}/{k}"] = getattr(communicator, kind)(salted[k])
        return results

    rows = sizes_of("uneven", ranks)[rank].sum()
    given = [tf.constant(values_of(rank, (rows if k % 4 == 3 else 4, 3), salt=k)) for k in range(20)]
    for _ in range(3):
        results = step(given)
    return results


def nested(communicator) -> dict[str, tf.Tensor]:
    """A function called twice by another, and by a branch."""

    @tf.function
    def inner(value):
        return communicator.all_reduce(value) + communicator.all_reduce(value * 2.0)

    @tf.function
    def outer(value, really):
        first, second = inner(value), inner(value + 1.0)
        third = inner(value + 2.0) if really else tf.zeros_like(value)
        return first, second, third, communicator.all_reduce(value)

    results = outer(tf.constant(values_of(communicator.rank, (4, 3))), tf.constant(True))
    return dict(zip(("first", "second", "third", "own"), results, strict=True))


def constants(communicator) -> dict[str, tf.Tensor]:
    """What is a constant on one rank, or equal to another, is not on the next: none may be folded or merged."""
    rank = communicator.rank
    variable = tf.Variable([10.0 + rank])

    @tf.function
    def step():
        value = tf.constant([5.0]) if rank == 0 else variable.read_value()
        twice, thrice = tf.constant([2.0 * rank]), tf.constant([3.0 * rank])
        sent = communicator.broadcast(value), communicator.all_gather(twice), communicator.all_gather(thrice)
        return (*sent, communicator.all_to_all(twice[:0], tf.zeros([communicator.size] * 2, tf.int64)))

    results = step()
    results = step()
    return dict(zip(("value", "twice", "thrice", "none"), results, strict=True))


def unread(communicator) -> dict[str, tf.Tensor]:
    """Rank 0 alone reads the result."""

    @tf.function
    def step(value):
        result = communicator.all_reduce(value)
        return result if communicator.rank == 0 else tf.zeros_like(value)

    return {"sum": step(tf.constant(values_of(communicator.rank, (4, 3))))}


def retraced(communicator) -> dict[str, tf.Tensor]:
    """One rank has traced the function, and others, oftener than the rest."""

    @tf.function
    def step(value, flag):
        return communicator.all_gather(communicator.all_reduce(value))

    if communicator.rank == 1:
        for extra in range(3):
            step.get_concrete_function(tf.TensorSpec([4, 3]), extra)
    return {"gathered": step(tf.constant(values_of(communicator.rank, (4, 3))), 7)}


def errors(communicator) -> dict[str, str]:
    rank, ranks = communicator.rank, communicator.size
    sizes = sizes_of("uneven", ranks)
    rows = tf.zeros((sizes[rank].sum() + 1, 3))
    other = sizes.copy()
    if rank == 1:  # thinks it is sent one more
        other[0, 1] += 1

    def message(exchange, *arguments) -> str:
        try:
            exchange(*arguments)
        except (tf.errors.InvalidArgumentError, ValueError) as error:
            return str(error)
        return "none"

    found = {}
    for mode, wrapped in (("eager", lambda step: step), ("graph", tf.function)):
        exchange = wrapped(communicator.all_to_all)
        found[f"{mode}/cover"] = message(exchange, rows, tf.constant(sizes))
        found[f"{mode}/disagree"] = message(exchange, rows[:-1], tf.constant(other))
    found["root"] = message(communicator.broadcast, tf.zeros(1), ranks)
    return found


# The tests.


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.long)])
def results(request, tmp_path_factory) -> list[dict[str, np.ndarray]]:
    """What each rank found."""
    folder = tmp_path_factory.mktemp(f"horovod-{request.param}")
    horovodrun(request.param, __file__, folder)
    return [dict(np.load(folder / f"rank-{rank}.npz")) for rank in range(request.param)]


def horovodrun(ranks: int, *command: object) -> None:
    """Runs the command as so many ranks on this machine, to its end; none is left behind."""
    runner = [Path(sys.executable).with_name("horovodrun"), "-np", str(ranks), "-H", f"localhost:{ranks}", "--gloo"]
    mark = f"{os.getpid()}-{ranks}"
    process = subprocess.Popen(
        [*runner, "--network-interfaces", "lo", sys.executable, *map(str, command)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_NUM_INTRAOP_THREADS": "1", "HEADRACE_TEST_RUN": mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=180)
    except subprocess.TimeoutExpired:
        process.terminate()  # it ends its ranks
        output, _ = process.communicate(timeout=60)
        pytest.fail(f"the ranks hang:\n{output}")
    finally:
        left = [found for found in psutil.process_iter() if marked(found, mark)]
        for found in left:
            found.kill()
    assert process.returncode == 0, output
    assert not left, "ranks are left behind"


def marked(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get("HEADRACE_TEST_RUN") == mark
    except psutil.Error:
        return False


@built
def test_the_topology_is_what_horovodrun_started(results):
    ranks = len(results)
    assert [found["topology"].tolist() for found in results] == [[ranks, ranks, r == 0] for r in range(ranks)]


@built
@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_all_to_all_brings_each_rank_its_rows_in_the_order_of_senders(results, mode, case, dtype):
    for name, shape in SHAPES.items():
        for rank, found in enumerate(results):
            wanted = parts_of(case, len(results), shape, rank)
            np.testing.assert_array_equal(found[f"{mode}/all_to_all/{case}/{dtype}/{name}"], wanted)


@built
@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gathered_reduced_and_broadcast_values_are_numpys(results, mode, dtype):
    values = [values_of(rank, (4, 3)) for rank in range(len(results))]
    for found in results:
        np.testing.assert_array_equal(found[f"{mode}/all_gather/{dtype}"], np.concatenate(values))
        np.testing.assert_array_equal(found[f"{mode}/all_reduce/{dtype}"], sum(values))
        np.testing.assert_array_equal(found[f"{mode}/broadcast/{dtype}"], values[1])
        assert found[f"{mode}/all_reduce/scalar"] == sum(range(1, len(results) + 1))
        assert found[f"{mode}/all_reduce/no rows"].shape == (0, 3)


@built
def test_rows_go_round_in_a_loop(results):
    ranks = len(results)
    for rank, found in enumerate(results):
        wanted = values_of((rank - LOOPS) % ranks, (4, 3)) + LOOPS
        np.testing.assert_array_equal(found["loop_of_exchanges/rows"], wanted)


@built
def test_rounds_of_a_loop_that_need_nothing_of_each_other_are_not_confused(results):
    total = sum(values_of(rank, (4, 3)) for rank in range(len(results)))
    for found in results:
        np.testing.assert_array_equal(found["loop_of_rounds_apart/total"], total * (sum(range(LOOPS)) + LOOPS // 2))
        np.testing.assert_array_equal(found["loop_of_rounds_apart/after"], total)


@built
def test_twenty_calls_in_no_order_are_paired_rightly(results):
    ranks = len(results)
    for rank, found in enumerate(results):
        for k in range(20):
            kind = ("all_reduce", "all_gather", "broadcast", "all_to_all")[k % 4]
            values = [values_of(r, (4, 3), salt=k) for r in range(ranks)]
            wanted = {
                "all_reduce": sum(values),
                "all_gather": np.concatenate(values),
                "broadcast": values[0],
                "all_to_all": parts_of("uneven", ranks, (3,), rank, salt=k),
            }
            np.testing.assert_array_equal(found[f"twenty_in_no_order/{kind}/{k}"], wanted[kind])


@built
def test_functions_inside_functions_take_part(results):
    ranks = len(results)
    total = sum(values_of(rank, (4, 3)) for rank in range(ranks))
    for found in results:
        for added, name in enumerate(("first", "second", "third")):
            np.testing.assert_array_equal(found[f"nested/{name}"], 3 * (total + added * ranks))
        np.testing.assert_array_equal(found["nested/own"], total)


@built
def test_constants_are_exchanged_like_anything_else(results):
    for found in results:
        assert found["constants/value"].tolist() == [5.0]
        assert found["constants/twice"].tolist() == [2.0 * rank for rank in range(len(results))]
        assert found["constants/thrice"].tolist() == [3.0 * rank for rank in range(len(results))]
        assert found["constants/none"].shape == (0,)


@built
def test_ranks_that_do_not_read_a_result_or_trace_oftener_take_part(results):
    total = sum(values_of(rank, (4, 3)) for rank in range(len(results)))
    np.testing.assert_array_equal(results[0]["unread/sum"], total)
    for found in results:
        np.testing.assert_array_equal(found["retraced/gathered"], np.concatenate([total] * len(results)))


@built
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_what_ranks_do_not_agree_on_is_said(results, mode):
    for found in results:
        assert "sizes do not cover the rows" in str(found[f"errors/{mode}/cover"])
        assert "ranks are 0 to" in str(found["errors/root"])
    assert "another rank has other sizes" in str(results[1][f"errors/{mode}/disagree"])


def test_without_horovod_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "horovod.tensorflow", None)
    with pytest.raises(UserError, match=r"not installed[\s\S]*make horovod"):
        HorovodStrategy()


def test_a_horovod_for_another_tensorflow_is_said(monkeypatch):
    def fail(name):
        raise tf.errors.NotFoundError(None, None, "mpi_lib.so: undefined symbol: _ZN10tensorflow")

    monkeypatch.setattr(horovod.importlib, "import_module", fail)
    with pytest.raises(UserError, match=r"does not load \(mpi_lib.so[\s\S]*make horovod"):
        HorovodStrategy()


if __name__ == "__main__":
    faulthandler.dump_traceback_later(120, exit=True)  # where a rank hangs is then in what is printed
    place = HorovodStrategy()
    np.savez(Path(sys.argv[1]) / f"rank-{place.communicator.rank}.npz", **all_cases(place))
