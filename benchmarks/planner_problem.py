"""The models whose steps the `planner` suite predicts and measures: drawn at random, as varied as real ones are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from embeddings.planner import ClusterTopology, TableSpec, Workload, plan_tables
from embeddings.planner.enumeration import ShardingOption, column_parts
from embeddings.planner.estimate import CostModel
from embeddings.planner.loads import Placement
from embeddings.planner.planner import Planned, planned
from embeddings.planner.tables import Dense
from embeddings.sharding import KINDS, Kind

RANKS = 2
TABLES = (3, 40)
ROWS = (1e3, 2e6)
DIMS = (8, 16, 32, 64, 128)
LARGEST_BAG = 30
STEEPEST = 1.2  # exponent of Zipf's law
FEATURES = 3  # of a table, at most
OPTIMIZERS = ("RowWiseAdagrad", "Adagrad", "SGD")
BATCHES = (1_024, 2_048, 4_096, 8_192, 16_384)
HIDDEN = ((256, 128, 1), (128, 64, 1), (512, 256, 128, 1))
COPIED_ROWS = 100_000  # of a table that is copied to every rank, at most
_HOT = 0.5  # of the lookups, that replicated rows take


@dataclass(frozen=True)
class Limits:
    """Of a model. tables: bytes of all tables and their slot variables. vectors: bytes of all that a global batch looks
    up, each id's vector on its own. batch: examples."""

    tables: float = 3e9
    vectors: float = 0.5e9
    batch: int = BATCHES[-1]


LIMITS = Limits()


@dataclass(frozen=True)
class Model:
    """A workload, and the widths of its dense layers above the vectors side by side; () is none. mixed: its tables lie
    under all sharding types in turn; else the cost model lays them out."""

    name: str
    workload: Workload
    widths: tuple[int, ...]
    mixed: bool

    def planned(self, topology: ClusterTopology) -> Planned:
        """The plan, and what its step is expected to take."""
        if not self.mixed:
            return plan_tables(self.workload, topology, "greedy")
        return planned(CostModel(self.workload, topology), _in_turn(self.workload), "turns", {})

    @property
    def lookups(self) -> float:
        """Ids of a global batch."""
        return self.workload.batch_size * sum(table.ids_per_example for table in self.workload.tables)


def draw_models(count: int, seed: int, limits: Limits = LIMITS) -> list[Model]:
    """So many models; the same seed gives the same. Every second has dense layers, two of five are mixed, optimizers
    take turns; the rest is drawn, again for a model that is beyond the limits."""
    rng = np.random.default_rng(seed)
    return [_within(rng, number, limits) for number in range(count)]


def kinds_of(planned: Planned) -> dict[str, int]:
    """How many tables lie under each sharding type."""
    return dict(sorted(Counter(table.kind for table in planned.plan.tables.values()).items()))


def _within(rng: np.random.Generator, number: int, limits: Limits) -> Model:
    while True:
        model = _drawn(rng, number)
        tables = model.workload.tables
        held = sum(table.bytes_of(table.rows) for table in tables)
        vectors = model.workload.batch_size * sum(4 * table.dim * table.ids_per_example for table in tables)
        if held <= limits.tables and vectors <= limits.vectors and model.workload.batch_size <= limits.batch:
            return model


def _drawn(rng: np.random.Generator, number: int) -> Model:
    dims = rng.choice(DIMS, rng.integers(1, 3), replace=False)
    optimizer = OPTIMIZERS[number % len(OPTIMIZERS)]
    tables = tuple(
        TableSpec(
            f"table_{place}",
            rows=int(_log_uniform(rng, *ROWS)),
            dim=int(rng.choice(dims)),
            pooling_factor=float(1 if rng.random() < 0.5 else rng.integers(2, LARGEST_BAG + 1)),
            zipf_alpha=round(float(rng.uniform(0, STEEPEST)), 2) if rng.random() < 0.8 else 0.0,
            optimizer=optimizer,
            features=int(rng.integers(1, FEATURES + 1)),
        )
        for place in range(round(_log_uniform(rng, *TABLES)))
    )
    batch, hidden = int(rng.choice(BATCHES)), HIDDEN[rng.integers(len(HIDDEN))]
    workload = Workload(tables, batch)
    if number % 2:
        return Model(f"model_{number}", workload, (), number % 5 >= 3)
    widths = (workload.activation_width, *hidden)
    return Model(f"model_{number}", Workload(tables, batch, Dense.stack(widths)), hidden, number % 5 >= 3)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _in_turn(workload: Workload) -> dict[str, Placement]:
    """Every table under the next sharding type that it can have. `table_row_wise` is over the ranks of the only host,
    which a planner, to whom that is row_wise, does not propose."""
    options = {table.name: _options(table) for table in workload.tables}
    taken: Counter[Kind] = Counter()
    placements = {}
    for number, table in enumerate(workload.tables):
        possible = options[table.name]
        kind = min(possible, key=lambda kind: (taken[kind], KINDS.index(kind)))
        taken[kind] += 1
        ranks = (number % RANKS,) if kind == "table_wise" else tuple(range(RANKS))
        placements[table.name] = Placement(possible[kind], ranks)
    return placements


def _options(table: TableSpec) -> Mapping[Kind, ShardingOption]:
    options: dict[Kind, ShardingOption] = {
        kind: ShardingOption(kind) for kind in ("table_wise", "row_wise", "table_row_wise")
    }
    if table.rows <= COPIED_ROWS:
        options["data_parallel"] = ShardingOption("data_parallel")
    if parts := column_parts(table.dim, RANKS):
        options["column_wise"] = ShardingOption("column_wise", columns=parts[-1])
    hot = table.law.hottest_with(_HOT) if table.zipf_alpha else table.rows
    if hot <= table.rows - RANKS:
        options["hot_cold"] = ShardingOption("hot_cold", hot_rows=hot)
    return options


def question_of(model: Model, plan: Planned, batches: int) -> dict[str, Any]:
    """To `planner_worker`."""
    return {
        "workload": asdict(model.workload),
        "widths": list(model.widths),
        "plan": plan.plan.document(),
        "batches": batches,
    }
