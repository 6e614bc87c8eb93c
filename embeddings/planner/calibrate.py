"""From measurements of a machine to a topology: what fits measured steps best."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace

import numpy as np
from scipy.optimize import nnls

from embeddings.planner.enumeration import ShardingOption
from embeddings.planner.estimate import CostModel
from embeddings.planner.loads import Placement
from embeddings.planner.tables import TableSpec, Workload
from embeddings.planner.topology import ClusterTopology, Link

COPIED = 1 << 28  # bytes; far beyond any cache
MATRIX = 768
REPEATS = 5
NEGLIGIBLE = 1e-30  # seconds: a cost that is turned off

# Steps that tell the costs apart: many tables with few ids, then many ids of narrow, middling and wide rows, ids that
# repeat, and bags; of these also as many as fill memory, not caches.
PROBES: Mapping[str, Workload] = {
    "small": Workload(tuple(TableSpec(f"small{i}", 1_000, 8) for i in range(24)), 64),
    "narrow": Workload((TableSpec("narrow", 2_000_000, 16, features=8),), 8_192),
    "middling": Workload((TableSpec("middling", 1_000_000, 64, features=8),), 4_096),
    "wide": Workload((TableSpec("wide", 400_000, 128, features=8),), 2_048),
    "skewed": Workload((TableSpec("skewed", 1_000_000, 64, zipf_alpha=1.2, features=8),), 4_096),
    "bags": Workload((TableSpec("bags", 1_000_000, 32, pooling_factor=16, zipf_alpha=0.8, features=2),), 2_048),
    "many bags": Workload((TableSpec("bags", 500_000, 64, pooling_factor=16, zipf_alpha=0.8, features=2),), 8_192),
}


@dataclass(frozen=True)
class Costs:
    """Seconds of starting an op, of grouping an id, of moving a byte of rows at random places, of a collective that
    moves almost nothing, and of a byte on the wire."""

    launch: float
    grouping: float
    byte: float
    latency: float
    sent: float


def machine_name() -> str:
    """What tells this machine from another."""
    return f"{platform.node()}, {platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def machine_memory() -> float:
    """Bytes of memory there are."""
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def copy_bandwidth() -> float:
    """Bytes/s read and written by copying one large array to another."""
    source = np.ones(COPIED // 8)
    target = np.empty_like(source)
    return 2 * COPIED / _median_seconds(lambda: np.copyto(target, source))


def matrix_flops() -> float:
    """FLOP/s of float32 matrix products."""
    matrix = np.ones((MATRIX, MATRIX), np.float32)
    product = np.empty_like(matrix)
    return 2 * MATRIX**3 / _median_seconds(lambda: np.matmul(matrix, matrix, out=product))


def _median_seconds(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[1:]))  # the first touches memory anew


def fitted_costs(steps: Sequence[tuple[Workload, int, float]]) -> Costs:
    """steps: (workload, ranks, measured seconds), every table row-wise over the ranks. The costs under which the
    estimate comes nearest to the seconds: least squares of the relative errors, none negative (Lawson and Hanson,
    1974)."""
    seconds = np.array([took for _, _, took in steps])
    shares = np.array([_coefficients(workload, ranks) for workload, ranks, _ in steps]) / seconds[:, np.newaxis]
    scale = shares.max(axis=0)
    scale[scale == 0.0] = 1.0  # one rank alone sends nothing
    found, _ = nnls(shares / scale, np.ones(len(seconds)))
    return Costs(*(max(float(cost), NEGLIGIBLE) for cost in found / scale))


def estimated_seconds(workload: Workload, ranks: int, costs: Costs) -> float:
    """What the estimate says of a step."""
    return float(np.dot(_coefficients(workload, ranks), astuple(costs)))


def _coefficients(workload: Workload, ranks: int) -> list[float]:
    """How much of each of `Costs` the estimate counts in a step, in which it is linear where all ranks do the same."""
    option = ShardingOption("row_wise" if ranks > 1 else "table_wise")
    placement = Placement(option, tuple(range(ranks)))

    def seconds(costs: Costs) -> float:
        link = Link(1 / costs.sent, 1.0, costs.latency)
        topology = ClusterTopology(
            "probe", "", 1, ranks, 1.0, 1 / costs.byte, 1.0, 1.0, 1.0, costs.launch, link, link, 1 / costs.grouping
        )
        model = CostModel(workload, topology)
        return model.step_seconds(np.sum([model.load(table, placement) for table in workload.tables], axis=0))

    off = Costs(*[NEGLIGIBLE] * 5)
    return [seconds(replace(off, **{cost.name: 1.0})) - seconds(off) for cost in fields(off)]


def machine_topology(ranks: int, copy: float, flops: float, dense_flops: float, costs: Costs) -> ClusterTopology:
    """This machine as one host of so many ranks. copy, flops, dense_flops: bytes/s and FLOP/s of one rank while all
    work, of copying, of large matrix products and of dense layers that train."""
    wire = min(1 / costs.sent, copy)  # where nothing was sent, as one rank does not, memory is the bound
    link = Link(wire, 1.0, costs.latency if costs.latency > NEGLIGIBLE else 0.0)
    return ClusterTopology(
        name="this-machine",
        device=f"CPU (1/{ranks} of the cores)" if ranks > 1 else "CPU",
        hosts=1,
        devices_per_host=ranks,
        memory=machine_memory() / ranks,
        memory_bandwidth=copy,
        memory_efficiency=float(f"{min(1 / costs.byte / copy, 1.0):.3g}"),
        flops=flops,
        flops_efficiency=float(f"{min(dense_flops / flops, 1.0):.3g}"),
        kernel_launch=costs.launch,
        intra_host=link,
        inter_host=link,
        grouping=min(1 / costs.grouping, copy),  # an id is at least a byte
        measured_on=machine_name(),
    )
