"""`headrace plan --calibrate`: this machine measured as a cluster of processes, by the kernels and collectives that
train on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from embeddings.planner.calibrate import (
    PROBES,
    Probe,
    copy_bandwidth,
    estimated_seconds,
    fitted_costs,
    machine_topology,
    matrix_flops,
)
from embeddings.planner.planner import plan_of
from embeddings.planner.topology import ClusterTopology
from foundation.errors import UserError
from foundation.progress import say
from strategies import Communicator
from strategies.multi_worker import MultiWorkerStrategy
from trainer.supervisor.environment import tf_config
from trainer.supervisor.ports import HeldPorts
from trainer.workload_step import batches_of, settle_process, timed, training_step, undisturbed

WARM_UP, REPEATS, BATCHES = 3, 12, 3
VISITS = 2  # to each probe, some time apart
TIMEOUT = 900.0  # seconds


def calibrate(ranks: int, probes: Mapping[str, Probe] = PROBES) -> ClusterTopology:
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
    measured = _measure_together(ranks, available, list(probes))

    def middle(name: str) -> float:
        return float(np.median([rank[name] for rank in measured]))

    # ranks wait for each other in the exchange, so any one's time is all ranks'; alone they differ
    steps = [(probe, 1, middle(f"{name} on 1")) for name, probe in probes.items()]
    if ranks > 1:
        steps += [(probe, ranks, middle(f"{name} on {ranks}")) for name, probe in probes.items()]
    costs = fitted_costs(steps)
    for name, (probe, over, took) in zip([*probes] * 2, steps, strict=False):
        estimate = estimated_seconds(probe, over, costs)
        say(f"  {name} on {over}: {1e3 * took:.2f} ms, fitted {1e3 * estimate:.2f} ({estimate / took - 1:+.0%})")
    return machine_topology(ranks, middle("copy"), middle("flops"), costs)


def _measure_together(ranks: int, available: list[int], probes: Sequence[str]) -> list[dict[str, Any]]:
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
            cores = ",".join(map(str, share))
            words = [sys.executable, "-m", "trainer.calibration", f"{folder}/{rank}.json", cores, *probes]
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


def measure_rank(result: Path, cores: list[int], probes: Sequence[str]) -> None:
    """What one rank's process does: measures, in the same order as the others, and writes a JSON file."""
    settle_process(cores)
    strategy = MultiWorkerStrategy()
    communicator = strategy.communicator
    rates: dict[str, list[float]] = {"copy": [], "flops": []}
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(VISITS):
        for name, rate in (("copy", copy_bandwidth), ("flops", matrix_flops)):
            strategy.barrier()
            rates[name].append(rate())
        for ranks in sorted({1, communicator.size}):
            for name in probes:
                strategy.barrier()
                seconds[f"{name} on {ranks}"] += _steps(PROBES[name], None if ranks == 1 else communicator)
    strategy.barrier()
    measured = {name: max(of_visits) for name, of_visits in rates.items()}
    result.write_text(json.dumps({**measured, **{name: undisturbed(steps) for name, steps in seconds.items()}}))


def _steps(probe: Probe, communicator: Communicator | None) -> list[float]:
    """Seconds of a probe's steps, on this process or over the ranks of a communicator."""
    ranks, rank = (1, 0) if communicator is None else (communicator.size, communicator.rank)
    plan = None if communicator is None else plan_of(probe.workload, probe.placements(ranks), ranks)
    step = training_step(probe.workload, probe.widths, communicator, plan)
    return timed(step, batches_of(probe.workload, ranks, rank, BATCHES), WARM_UP + REPEATS)[WARM_UP:]


if __name__ == "__main__":
    measure_rank(Path(sys.argv[1]), [int(core) for core in sys.argv[2].split(",")], sys.argv[3:])
