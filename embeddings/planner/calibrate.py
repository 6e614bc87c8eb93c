"""From measurements of a machine to a topology: what fits measured steps best."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from typing import Any

import numpy as np
from scipy.optimize import nnls

from embeddings.planner.enumeration import ShardingOption, column_parts
from embeddings.planner.estimate import CostModel
from embeddings.planner.loads import Placement
from embeddings.planner.tables import Dense, TableSpec, Workload
from embeddings.planner.topology import ClusterTopology, Link
from embeddings.sharding import Kind

COPIED = 1 << 28  # bytes; far beyond any cache
MATRIX = 768
REPEATS = 5
NEGLIGIBLE = 1e-30  # seconds: a cost that is turned off


@dataclass(frozen=True)
class Probe:
    """A step to measure: tables that all lie under one sharding type where ranks are several, and dense layers of these
    widths above them."""

    tables: tuple[TableSpec, ...]
    batch_size: int  # examples of the global batch
    kind: Kind = "row_wise"
    widths: tuple[int, ...] = ()

    @property
    def workload(self) -> Workload:
        bare = Workload(self.tables, self.batch_size)
        if not self.widths:
            return bare
        return replace(bare, dense=Dense.stack((bare.activation_width, *self.widths)))

    def placements(self, ranks: int) -> dict[str, Placement]:
        """Of every table; whole tables are on the ranks in turn."""
        everyone = tuple(range(ranks))
        if ranks == 1:
            return {table.name: Placement(ShardingOption("table_wise"), everyone) for table in self.tables}
        return {
            table.name: Placement(
                self._option(table, ranks), (place % ranks,) if self.kind == "table_wise" else everyone
            )
            for place, table in enumerate(self.tables)
        }

    def _option(self, table: TableSpec, ranks: int) -> ShardingOption:
        if self.kind == "column_wise":
            return ShardingOption(self.kind, columns=column_parts(table.dim, ranks)[-1])
        return ShardingOption(self.kind, hot_rows=table.law.hottest_with(0.5) if self.kind == "hot_cold" else 0)


def _copies(count: int, *of_each: Any, **keys: Any) -> tuple[TableSpec, ...]:
    return tuple(TableSpec(f"table_{number}", *of_each, **keys) for number in range(count))


# Steps that tell the costs apart: tables and features that are many, with few ids; then many ids of narrow, middling
# and wide rows, ids that repeat, and bags; of these also as many as fill memory, not caches; rows with wide slots;
# other sharding types; dense layers.
PROBES: Mapping[str, Probe] = {
    "few tables": Probe(_copies(2, 1_000, 8), 64),
    "many tables": Probe(_copies(32, 1_000, 8), 64),
    "many features": Probe(_copies(8, 1_000, 8, features=8), 64),
    "narrow": Probe(_copies(4, 500_000, 8, features=2), 8_192),
    "middling": Probe(_copies(4, 500_000, 32, features=2), 4_096),
    "wide": Probe(_copies(4, 200_000, 128, features=2), 2_048),
    "wide slots": Probe(_copies(4, 200_000, 64, features=2, optimizer="Adagrad"), 4_096),
    "no slots": Probe(_copies(4, 200_000, 64, features=2, optimizer="SGD"), 4_096),
    "cached": Probe(_copies(4, 4_000, 32, features=2), 4_096),
    "skewed": Probe(_copies(4, 1_000_000, 64, zipf_alpha=1.2, features=2), 8_192),
    "bags": Probe(_copies(4, 200_000, 32, pooling_factor=16, zipf_alpha=0.8), 2_048),
    "many bags": Probe(_copies(4, 500_000, 64, pooling_factor=16, zipf_alpha=0.8), 4_096),
    "narrow bags": Probe(_copies(4, 50_000, 16, pooling_factor=16, zipf_alpha=0.4), 8_192),
    "copied": Probe(_copies(8, 20_000, 32, zipf_alpha=0.6), 4_096, "data_parallel"),
    "hot and cold": Probe(_copies(4, 200_000, 16, pooling_factor=8, zipf_alpha=0.9), 4_096, "hot_cold"),
    "columns": Probe(_copies(4, 100_000, 64, features=2, optimizer="Adagrad"), 4_096, "column_wise"),
    "coupled columns": Probe(_copies(4, 100_000, 64, features=2), 4_096, "column_wise"),
    "whole": Probe(_copies(8, 200_000, 32, pooling_factor=4, zipf_alpha=0.8), 2_048, "table_wise"),
    "dense": Probe(_copies(2, 1_000, 128, features=2), 2_048, widths=(256, 128, 1)),
    "wide dense": Probe(_copies(8, 1_000, 64, features=2), 4_096, widths=(64, 1)),
    "small dense": Probe(_copies(2, 1_000, 32), 256, widths=(512, 512, 1)),
}


@dataclass(frozen=True)
class Costs:
    """Seconds of starting an op, of grouping an id, of merging one that arrived, of moving a byte of rows at random
    places of a table, and one of vectors and gradients on their way, of stepping an element of a slot variable, of a
    floating-point operation of dense layers, of a collective that moves almost nothing, and of a byte on the wire."""

    launch: float
    grouping: float
    merging: float
    byte: float
    streamed: float
    stepping: float
    flop: float
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


Steps = Sequence[tuple[Probe, int, float]]  # probe, ranks, measured seconds


def fitted_costs(steps: Steps) -> Costs:
    """The costs under which the estimate comes nearest to the seconds: least squares of the relative errors, none
    negative (Lawson and Hanson, 1974)."""
    seconds = np.array([took for _, _, took in steps])
    shares = np.array([_coefficients(probe, ranks) for probe, ranks, _ in steps]) / seconds[:, np.newaxis]
    scale = shares.max(axis=0)
    scale[scale == 0.0] = 1.0  # one rank alone sends nothing
    found, _ = nnls(shares / scale, np.ones(len(seconds)))
    return Costs(*(max(float(cost), NEGLIGIBLE) for cost in found / scale))


def estimated_seconds(probe: Probe, ranks: int, costs: Costs) -> float:
    """What the estimate says of a step."""
    return float(np.dot(_coefficients(probe, ranks), astuple(costs)))


def _coefficients(probe: Probe, ranks: int) -> list[float]:
    """How much of each of `Costs` the estimate counts in a step, in which it is linear where all ranks do the same."""
    workload, placements = probe.workload, probe.placements(ranks)

    def seconds(costs: Costs) -> float:
        model = CostModel(workload, _probe_topology(ranks, costs))
        return model.step_seconds(
            np.sum([model.load(table, placements[table.name]) for table in workload.tables], axis=0)
        )

    off = Costs(*[NEGLIGIBLE] * len(fields(Costs)))
    return [seconds(replace(off, **{cost.name: 1.0})) - seconds(off) for cost in fields(off)]


def _probe_topology(ranks: int, costs: Costs) -> ClusterTopology:
    link = Link(1 / costs.sent, 1.0, costs.latency)
    return ClusterTopology(
        name="probe",
        device="",
        hosts=1,
        devices_per_host=ranks,
        memory=1.0,
        memory_bandwidth=1.0,
        memory_efficiency=1 / costs.byte,
        streaming_efficiency=1 / costs.streamed,
        flops=1.0,
        flops_efficiency=1 / costs.flop,
        kernel_launch=costs.launch,
        intra_host=link,
        inter_host=link,
        grouping=1 / costs.grouping,
        merging=1 / costs.merging,
        stepping=1 / costs.stepping,
        kernels="compiled",
    )


def machine_topology(ranks: int, copy: float, flops: float, costs: Costs) -> ClusterTopology:
    """This machine as one host of so many ranks. copy, flops: bytes/s and FLOP/s of one rank while all work, of copying
    and of large matrix products."""
    wire = min(1 / costs.sent, copy)  # where nothing was sent, as one rank does not, memory is the bound
    link = Link(wire, 1.0, costs.latency if costs.latency > NEGLIGIBLE else 0.0)

    def share(cost: float, of: float) -> float:
        return float(f"{min(1 / cost / of, 1.0):.3g}")

    return ClusterTopology(
        name="this-machine",
        device=f"CPU (1/{ranks} of the cores)" if ranks > 1 else "CPU",
        hosts=1,
        devices_per_host=ranks,
        memory=machine_memory() / ranks,
        memory_bandwidth=copy,
        memory_efficiency=share(costs.byte, copy),
        streaming_efficiency=share(costs.streamed, copy),
        flops=flops,
        flops_efficiency=share(costs.flop, flops),
        kernel_launch=costs.launch,
        intra_host=link,
        inter_host=link,
        grouping=min(1 / costs.grouping, copy),  # an id is at least a byte
        merging=min(1 / costs.merging, copy),
        stepping=min(1 / costs.stepping, flops),
        kernels="compiled",
        measured_on=machine_name(),
    )
