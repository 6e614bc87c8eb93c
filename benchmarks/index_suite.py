"""The nearest-neighbour index against exact search, faiss and hnswlib: recall, queries/s, building, memory, growth."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.index_contenders import EXACT, OURS, PEERS, exact, ours, peers
from benchmarks.index_data import K, VectorSet, clustered, data_folder, tower
from benchmarks.index_frontier import BATCHES, RECALL, Measured, Point, Rounds, fastest, frontier, measure
from benchmarks.index_sharding import add_sharding
from benchmarks.machine import describe
from benchmarks.report import Curves, Frontiers, Report
from foundation.errors import UserError, nearest
from foundation.progress import progress

_WORLD = {"users": 200_000, "items": 1_000_000, "impressions": 4_000_000, "no_repeat": 20}
_SMALL_WORLD = {"users": 500, "items": 2_000, "days": 5, "impressions": 20_000, "no_repeat": 10}
_COMMON = {"leaves": 2.0, "reorder_precision": "bfloat16", "training_sample": 100_000}
_SETTINGS: tuple[dict[str, Any], ...] = (
    {**_COMMON, "anisotropic_threshold": 0.2, "dims_per_block": 1},
    {**_COMMON, "anisotropic_threshold": 0.2, "dims_per_block": 2},
    {**_COMMON, "anisotropic_threshold": None, "codes": 0.5},
    {**_COMMON, "anisotropic_threshold": None, "codes": 0.375},
)
_OF_TOWER: dict[str, tuple[tuple[int, int], ...]] = {
    "faiss_hnsw": ((16, 200), (32, 200)),
    "hnswlib": ((16, 200), (32, 200)),
    "hnswlib_l2": ((32, 200),),  # with 16 links it found 0.87 at its greatest effort
}
_OF_CLUSTERED = dict.fromkeys(("faiss_hnsw", "hnswlib"), ((8, 100), (16, 200)))  # 16 links find 0.99 at least


@dataclass(frozen=True)
class Sizes:
    """world: that the tower is trained on. growth: candidates of the clustered sets that growth is measured on; the
    HNSW peers build only up to `hnsw_at_most`."""

    world: Mapping[str, Any] = field(default_factory=lambda: dict(_WORLD))
    size: int = 1_000_000
    queries: int = 20_000
    growth: tuple[int, ...] = (100_000, 1_000_000, 5_000_000)
    hnsw_at_most: int = 1_000_000
    shards: int = 4
    build_rounds: int = 3
    settings: tuple[dict[str, Any], ...] = _SETTINGS
    rounds: Rounds = field(default_factory=Rounds)


QUICK = Sizes(
    world=_SMALL_WORLD,
    size=2_000,
    queries=1_000,
    growth=(1_000,),
    shards=2,
    build_rounds=1,
    settings=({"leaves": 1.0, "anisotropic_threshold": 0.2, "training_sample": 2_000},),
    rounds=Rounds(of_batches=2, warmup=1, batches=1, singles=2),
)


def run(quick: bool, parts: Sequence[str] = ()) -> Report:
    """parts: names of PARTS; if there are none all, of which quick has QUICK_PARTS.

    Raises:
      UserError: a part that there is not.
    """
    for part in parts:
        if part not in PARTS:
            raise UserError(f"the suite index has no part '{part}': {nearest(part, list(PARTS))}")
    sizes = QUICK if quick else Sizes()
    table = Table("set", "", "recall@10", "recall@100", "q/s batch 1", "q/s batch 256", "build s", "peak / vectors")
    table.title = f"index: each at its fastest with recall@100 >= {RECALL}"
    report = Report("index", _protocol(sizes, quick), describe(), table)
    chosen = list(parts) or list(QUICK_PARTS if quick else PARTS)
    with tempfile.TemporaryDirectory() as folder, progress("index", len(chosen), "parts") as meter:
        arena = _Arena(report, sizes, quick, Path(folder))
        for part in chosen:
            meter.advance(note=part)
            PARTS[part](arena)
    return report


@dataclass(frozen=True)
class _Arena:
    report: Report
    sizes: Sizes
    quick: bool
    folder: Path
    known: dict[str, Measured] = field(default_factory=dict)  # by the set's name

    def measured(self, data: VectorSet, graphs: Mapping[str, Sequence[tuple[int, int]]]) -> Measured:
        """Every contender on a set: once, also where two parts ask for it."""
        if data.name not in self.known:
            size, dim = data.shape()
            own = [*ours(size, dim, self.sizes.settings, self.quick), *exact(size)]
            found = measure(data, [*own, *peers(size, dim, graphs, self.quick)], self.sizes.rounds, self.folder)
            self.report.notes.extend(found.notes)
            self.report.machine.update(found.facts)
            self.known[data.name] = found
        return self.known[data.name]


def _tower_64(arena: _Arena) -> None:
    """The set that the suite's own metrics are of."""
    data = tower(arena.sizes.world, 64, arena.sizes.queries)
    _whole(arena, data, _OF_TOWER, "tower-64", "")


def _tower_128(arena: _Arena) -> None:
    data = tower(arena.sizes.world, 128, arena.sizes.queries)
    _whole(arena, data, _OF_TOWER, "tower-128", "tower-128.")


def _clustered_64(arena: _Arena) -> None:
    data = clustered(arena.sizes.size, 64, arena.sizes.queries)
    _whole(arena, data, _OF_CLUSTERED, "clustered-64", "clustered-64.")


def _whole(
    arena: _Arena, data: VectorSet, graphs: Mapping[str, Sequence[tuple[int, int]]], name: str, prefix: str
) -> None:
    """Every contender on a set, and the suite's ratios, their names behind `prefix`."""
    found = arena.measured(data, graphs)
    _add(arena.report, data, found, name)
    arena.report.metrics.update(_ratios(found, data, prefix))


def _growth(arena: _Arena) -> None:
    """Seconds of a query and of building, over the number of candidates."""
    searching = {size: Curves(f"growth-batch-{size}", "candidates", {}, of="a query") for size in BATCHES}
    building = Curves("growth-build", "candidates", {}, of="of building")
    for size in arena.sizes.growth:
        data = clustered(size, 64, arena.sizes.queries)
        hnsw = size <= arena.sizes.hnsw_at_most
        if not hnsw:
            arena.report.notes.append(f"{data.name}: HNSW was left out, whose building takes an hour and more here")
        found = arena.measured(data, _OF_CLUSTERED if hnsw else {})
        _add(arena.report, data, found, f"growth-{size}")
        for batch, curves in searching.items():
            for family in _families(found):
                best = fastest(_of(found, family), batch, 0.0 if family in EXACT else RECALL)
                if best:
                    curves.series.setdefault(family, {})[size] = 1 / best.rates[batch]
        for built in found.built:
            curve = building.series.setdefault(built.contender.family, {})
            curve[size] = min(built.seconds, curve.get(size, float("inf")))
    arena.report.curves.extend([*searching.values(), building])


def _sharding(arena: _Arena) -> None:
    data = tower(arena.sizes.world, 64, arena.sizes.queries)
    build = ours(*data.shape(), arena.sizes.settings, arena.quick)[-1].build
    setting = {name: value for name, value in build.items() if name != "kind"}
    add_sharding(arena.report, data, setting, arena.sizes.shards, arena.sizes.build_rounds, arena.folder)


PARTS: dict[str, Callable[[_Arena], None]] = {
    "tower-64": _tower_64,
    "tower-128": _tower_128,
    "clustered-64": _clustered_64,
    "growth": _growth,
    "sharding": _sharding,
}
QUICK_PARTS = ("tower-64", "sharding")


def _families(found: Measured) -> list[str]:
    return list(dict.fromkeys(point.family for point in found.points))


def _of(found: Measured, *families: str) -> list[Point]:
    return [point for point in found.points if point.family in families]


def _ratios(found: Measured, data: VectorSet, prefix: str) -> dict[str, float]:
    """The rate of headrace's index over the others', at no less recall than theirs."""
    metrics: dict[str, float] = {}
    for batch in BATCHES:
        rivals = {
            "exact": fastest(_of(found, *EXACT), batch, 0.0),
            "best_peer": fastest(_of(found, *PEERS), batch, RECALL),
        }
        for name, rival in rivals.items():
            wanted = rival.recall[K] if rival and name == "best_peer" else RECALL
            best = fastest(_of(found, OURS), batch, wanted)
            if rival and best:
                metrics[f"{prefix}qps_vs_{name}_batch{batch}"] = best.rates[batch] / rival.rates[batch]
    best = fastest(_of(found, OURS), max(BATCHES), RECALL)
    size, dim = data.shape()
    for built in found.built:
        if best and built.contender == best.contender:
            metrics[f"{prefix}build_peak_memory_vs_vectors"] = built.peak_bytes / (4 * size * dim)
    return metrics


def _add(report: Report, data: VectorSet, found: Measured, name: str) -> None:
    """Rows of the table, metrics by family, and the frontiers."""
    size, dim = data.shape()
    built = {one.contender.name: one for one in found.built}
    for family in _families(found):
        bests = {batch: fastest(_of(found, family), batch, RECALL) for batch in BATCHES}
        best = bests[max(BATCHES)] or max(_of(found, family), key=lambda point: point.recall[K])
        made = built.get(best.contender.name)
        rates = [f"{point.rates[batch]:,.0f}" if point else "-" for batch, point in bests.items()]
        report.table.add_row(
            name,
            f"{best.contender.name} {list(best.effort)}",
            f"{best.recall[10]:.4f}",
            f"{best.recall[K]:.4f}",
            *rates,
            f"{made.seconds:.1f}" if made else "",
            f"{made.peak_bytes / (4 * size * dim):.2f}" if made else "",
            end_section=family == _families(found)[-1],
        )
        for batch, point in bests.items():
            if point:
                report.metrics[f"{name}.{family}_qps_batch{batch}"] = point.rates[batch]
                report.metrics[f"{name}.{family}_recall100_batch{batch}"] = point.recall[K]
                report.metrics[f"{name}.{family}_recall10_batch{batch}"] = point.recall[10]
        if made:
            report.metrics[f"{name}.{family}_build_s"] = made.seconds
            report.metrics[f"{name}.{family}_build_peak_memory_vs_vectors"] = made.peak_bytes / (4 * size * dim)
    for batch in BATCHES:
        for k in (10, K):
            series = {
                family: [(p.recall[k], p.rates[batch]) for p in frontier(_of(found, family), batch, k)]
                for family in _families(found)
            }
            report.frontiers.append(Frontiers(f"{name}-recall{k}-batch{batch}", f"recall@{k}", series))


def _protocol(sizes: Sizes, quick: bool) -> dict[str, Any]:
    return {
        "tower": "two-tower model (the last number is a candidate's bias) trained for one pass over the log of a "
        "simulated world with as many items as there are candidates; most items have few positives or none, so that "
        "their vectors come from their features; candidates and queries (users with their whole histories) as of the "
        f"log's end; world: {dict(sizes.world)}",
        "clustered": "norm 1, 500 to a cluster on average; benchmarks/index_data.py",
        "exact": "the faster of BLAS (blocks of 16,384 vectors, argpartition) and tf.math.top_k(tf.matmul)",
        "recall": "of the exact 100 (10) largest inner products, over 1,000 held-out queries",
        "order": "one process for each built index, all alive at once; every index at every effort takes its turn in a "
        "random order within each round; medians over rounds; an effort that in a first round is 1.5 times slower "
        "than another of its family that finds no less is not timed further; each turn begins with calls that "
        "are not timed; a batch is timed within its process, all cores; one by one: IVF with one thread and with all, "
        "whichever is faster",
        "compared": "with exact: the fastest with recall@100 >= 0.95; with the best peer: headrace's fastest with no "
        "less recall than the peers' fastest that has 0.95",
        "peak_memory": "VmHWM of the building process less what it held before it read a vector, over vectors' bytes",
        "builds": "headrace: "
        + "; ".join(map(str, sizes.settings))
        + "; faiss IVF,PQx4fs,RFlat: 1 and 2 x sqrt(N) lists, "
        f"4 bits for 2 dimensions; IVF,Flat likewise; HNSW, (M, efConstruction): {_OF_TOWER} of a tower, "
        f"{_OF_CLUSTERED} of clustered vectors; hnswlib_l2: the inner product reduced to L2 (Bachrach et al. 2014)",
        "data": str(data_folder()),
        "quick": quick,
    }
