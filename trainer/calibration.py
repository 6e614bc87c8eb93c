"""`headrace plan --calibrate`: this machine measured as a cluster of processes, by the kernels and collectives that
train on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from embeddings.planner.calibrate import (
    PROBES,
    copy_bandwidth,
    estimated_seconds,
    fitted_costs,
    machine_topology,
    matrix_flops,
)
from embeddings.planner.tables import Dense, TableSpec, Workload
from embeddings.planner.topology import ClusterTopology
from embeddings.sharding import ShardingPlan, TableSharding
from foundation.errors import UserError
from foundation.progress import say
from trainer.supervisor.environment import tf_config
from trainer.supervisor.ports import HeldPorts

WIDTHS, DENSE_ROWS = (512, 256, 128, 1), 2_048  # of the dense layers that are measured
WARM_UP, REPEATS = 3, 15
TIMEOUT = 900.0  # seconds


def calibrate(ranks: int) -> ClusterTopology:
    """Measures so many ranks at work together, each on its share of the cores: alone and through the exchange.

    Raises:
      UserError: there are more ranks than cores, or a rank failed.
    """
    available = sorted(os.sched_getaffinity(0))
    if ranks > len(available):
        raise UserError(
            f"--calibrate: {ranks} ranks are wanted and this process may use {len(available)} cores.",
            "Give each rank a core of its own: a smaller --devices-per-host.",
        )
    say(f"calibrating {ranks} rank(s) on {len(available)} core(s): memory, arithmetic, tables, exchange (minutes)")
    measured = _measure_together(ranks, available)

    def middle(name: str) -> float:
        return float(np.median([rank[name] for rank in measured]))

    # ranks wait for each other in the exchange, so any one's time is all ranks'; alone they differ
    steps = [(probe, 1, middle(f"{name} on 1")) for name, probe in PROBES.items()]
    if ranks > 1:
        steps += [(probe, ranks, middle(f"{name} on {ranks}")) for name, probe in PROBES.items()]
    costs = fitted_costs(steps)
    for name, (probe, over, took) in zip([*PROBES] * 2, steps, strict=False):
        estimate = estimated_seconds(probe, over, costs)
        say(f"  {name} on {over}: {1e3 * took:.2f} ms, fitted {1e3 * estimate:.2f} ({estimate / took - 1:+.0%})")
    return machine_topology(ranks, middle("copy"), middle("flops"), middle("dense_flops"), costs)


def _measure_together(ranks: int, available: list[int]) -> list[dict[str, Any]]:
    with closing(HeldPorts(ranks)) as ports, tempfile.TemporaryDirectory(prefix="headrace-calibrate-") as folder:
        processes = []
        for rank in range(ranks):
            share = available[len(available) * rank // ranks : len(available) * (rank + 1) // ranks]
            environment = {
                **os.environ,
                "TF_CONFIG": tf_config(rank, ports.addresses),
                "CUDA_VISIBLE_DEVICES": "-1",
                "OMP_NUM_THREADS": str(len(share)),
                "OPENBLAS_NUM_THREADS": str(len(share)),
            }
            words = [sys.executable, "-m", "trainer.calibration", f"{folder}/{rank}.json", ",".join(map(str, share))]
            output = open(f"{folder}/{rank}.log", "w")  # noqa: SIM115 - the process's own; closed below
            processes.append((subprocess.Popen(words, env=environment, stdout=output, stderr=output), output))
        try:
            deadline = time.monotonic() + TIMEOUT
            for rank, (process, _) in enumerate(processes):
                code = process.wait(timeout=max(deadline - time.monotonic(), 1.0))
                if code:
                    last = Path(f"{folder}/{rank}.log").read_text().strip().splitlines()[-1:]
                    raise UserError(f"--calibrate: rank {rank} failed: {''.join(last)[:300]}")
        except subprocess.TimeoutExpired as error:
            raise UserError(f"--calibrate: not done after {TIMEOUT:.0f} s.", "Stop what else runs here.") from error
        finally:
            for process, output in processes:
                process.kill()
                process.wait()
                output.close()
        return [json.loads(Path(f"{folder}/{rank}.json").read_text()) for rank in range(ranks)]


def measure_rank(result: Path, cpus: list[int]) -> None:
    """What one rank's process does: measures, in the same order as the others, and writes a JSON file."""
    os.sched_setaffinity(0, set(cpus))
    from foundation.tf import tf
    from strategies.multi_worker import MultiWorkerStrategy

    tf.config.threading.set_intra_op_parallelism_threads(len(cpus))
    strategy = MultiWorkerStrategy()
    work: dict[str, Callable[[], float]] = {
        "copy": copy_bandwidth,
        "flops": matrix_flops,
        "dense_flops": lambda: Dense.stack(WIDTHS).flops * DENSE_ROWS / _median_seconds(_dense_step()),
    }
    ranks = strategy.communicator.size
    for over in sorted({1, ranks}):
        communicator = None if over == 1 else strategy.communicator
        for name, probe in PROBES.items():
            step = _training_step(probe, communicator)
            work[f"{name} on {over}"] = lambda step=step: _median_seconds(step)  # type: ignore[misc]
    measured = {}
    for name, measure in work.items():
        strategy.barrier()
        measured[name] = measure()
    strategy.barrier()
    result.write_text(json.dumps(measured))


def _dense_step() -> Callable[[], Any]:
    """One training step of dense layers."""
    from foundation.tf import keras, tf

    layers = keras.Sequential([keras.layers.Dense(width, activation="relu") for width in WIDTHS[1:]])
    inputs, optimizer = tf.random.stateless_normal((DENSE_ROWS, WIDTHS[0]), seed=(0, 0)), keras.optimizers.SGD(0.0)

    @tf.function
    def step() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.reduce_sum(layers(inputs))
        gradients = tape.gradient(loss, [inputs, *layers.trainable_variables])
        optimizer.apply_gradients(zip(gradients[1:], layers.trainable_variables, strict=True))
        return loss

    return step


def _training_step(workload: Workload, communicator: Any) -> Callable[[], Any]:
    """One training step of the workload's tables alone, lookups, their gradients, updates: on this process, or row-wise
    over the ranks of a communicator."""
    from embeddings import FeatureConfig, RowWiseAdagrad, ShardedEmbedding, TableConfig
    from foundation.tf import tf

    rank, ranks = (0, 1) if communicator is None else (communicator.rank, communicator.size)
    rng = np.random.default_rng(rank)
    features, inputs = {}, {}
    for spec in workload.tables:
        table = TableConfig(spec.name, spec.rows, spec.dim, RowWiseAdagrad(0.01))
        for feature in range(spec.features):
            name = f"{spec.name}.{feature}"
            features[name] = FeatureConfig(table, "sum")
            inputs[name] = tf.constant(_ids(spec, workload.batch_size // ranks, rng))
    everyone = tuple(range(ranks))
    tables = {spec.name: TableSharding(spec.name, "row_wise", everyone) for spec in workload.tables}
    spread = {} if communicator is None else {"communicator": communicator, "plan": ShardingPlan(ranks, tables)}
    layer = ShardedEmbedding(features, **spread)

    @tf.function
    def step() -> Any:
        with tf.GradientTape() as tape:
            vectors = layer(inputs, training=True)
            loss = tf.add_n([tf.reduce_sum(vector) for vector in vectors.values()])
        return tape.gradient(loss, layer.trainable_variables)

    return step


def _ids(spec: TableSpec, rows: int, rng: np.random.Generator) -> np.ndarray:
    """[rows] or [rows, pooling_factor] int64 by the table's law, the frequent ones anywhere in it."""
    shape = (rows,) if spec.pooling_factor == 1 else (rows, round(spec.pooling_factor))
    if not spec.zipf_alpha:
        return rng.integers(0, spec.rows, shape)
    cumulative = np.cumsum(np.arange(1, spec.rows + 1, dtype=np.float64) ** -spec.zipf_alpha)
    drawn = np.searchsorted(cumulative, rng.random(shape) * cumulative[-1])
    return rng.permutation(spec.rows)[drawn]


def _median_seconds(work: Callable[[], Any]) -> float:
    for _ in range(WARM_UP):
        work()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        _settled(work())
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def _settled(outputs: Any) -> None:
    """Waits until the outputs are there."""
    for output in outputs if isinstance(outputs, list) else [outputs]:
        if output is not None:
            output.numpy()


if __name__ == "__main__":
    measure_rank(Path(sys.argv[1]), [int(cpu) for cpu in sys.argv[2].split(",")])
