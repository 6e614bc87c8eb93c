"""What the `scaling` suite trains: two models, their batches, and the bytes that the planner expects of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ids import zipf_ids
from benchmarks.recommenders import BOTTOM, DENSE
from benchmarks.training_suite import CLICKS, CRITEO, EXPONENT, LEARNING_RATE, initial_weights
from embeddings import RowWiseAdagrad, TableConfig
from embeddings.optimizers import EPSILON, INITIAL_ACCUMULATOR
from embeddings.planner import TableSpec, Workload, load_topology
from embeddings.planner.enumeration import ShardingOption
from embeddings.planner.estimate import CostModel
from embeddings.planner.loads import Placement
from embeddings.planner.planner import planned
from embeddings.planner.tables import Dense
from embeddings.sharding.default import default_plan

WORKERS = 2
MODELS = ("dlrm", "embedding")
HISTORIES = (2, 3)  # the tables that the embedding-only model's history features share with a feature of one id


@dataclass(frozen=True)
class Sizes:
    """batch: examples of one worker. tables_of: so many of Criteo's 26. cap: rows of a table at most. history: ids in a
    history on average, from 0 to twice that. batches: how many different ones are cycled through. steps: in a turn,
    which is timed as one. checked: examples of each worker whose trained vectors are compared."""

    batch: int = 8192
    dim: int = BOTTOM[-1]
    tables_of: int = len(CRITEO)
    cap: int = 1_886_000
    history: int = 10
    batches: int = 4
    steps: int = 6
    rounds: dict[str, int] = field(default_factory=lambda: {"dlrm": 7, "embedding": 9})
    warmup: int = 1
    few_tables: int = 5
    many_tables: int = 200
    checked: int = 1024
    try_compile: bool = True

    @property
    def tables(self) -> list[int]:
        """Rows of each."""
        return [min(rows, self.cap) for rows in CRITEO[: self.tables_of]]


@dataclass(frozen=True)
class Feature:
    """A feature that looks up the table of that number. bag: ids in an example on average; None: always one."""

    name: str
    table: int
    bag: int | None = None


def features_of(model: str, sizes: Sizes) -> list[Feature]:
    """A feature of one id for each table; in the embedding-only model, two histories beside them."""
    features = [Feature(f"category_{table}", table) for table in range(len(sizes.tables))]
    if model == "embedding":
        features += [Feature(f"history_{table}", table, sizes.history) for table in HISTORIES]
    return features


def write_batches(
    file: Path, generator: np.random.Generator, features: Sequence[Feature], tables: Sequence[int], sizes: Sizes
) -> None:
    """Global batches, the workers' examples one after the other, as npz: "<feature>/ids" [batches, n] int64; for one
    with bags "<feature>/lengths" [WORKERS * B] int64, of every batch; "dense" [batches, WORKERS * B, 13] float32;
    "labels" [batches, WORKERS * B] float32."""
    examples = WORKERS * sizes.batch
    shape = (sizes.batches, examples)
    arrays: dict[str, Any] = {
        "dense": generator.random((*shape, DENSE), np.float32),
        "labels": (generator.random(shape) < CLICKS).astype(np.float32),
    }
    for feature in features:
        ids = examples
        if feature.bag is not None:
            lengths = generator.integers(0, 2 * feature.bag + 1, examples)
            arrays[f"{feature.name}/lengths"], ids = lengths, int(lengths.sum())
        rows = tables[feature.table]
        arrays[f"{feature.name}/ids"] = zipf_ids(generator, (sizes.batches, ids), rows, EXPONENT)
    np.savez(file, **arrays)


@dataclass(frozen=True)
class Case:
    """A model to train, as files and as a question to workers."""

    model: str
    tables: list[int]
    features: list[Feature]
    question: dict[str, Any]
    dense_parameters: int


def draw_case(
    model: str,
    features: list[Feature],
    tables: list[int],
    generator: np.random.Generator,
    sizes: Sizes,
    folder: Path,
) -> Case:
    """Draws batches and first weights."""
    files = {what: folder / f"{model}-{len(tables)}-{what}.npz" for what in ("batches", "weights")}
    write_batches(files["batches"], generator, features, tables, sizes)
    weights = initial_weights(generator, "dlrm", len(tables), sizes.dim)
    np.savez(files["weights"], **weights)
    dense = sum(value.size for name, value in weights.items() if name != "rows") if model == "dlrm" else 0
    question = {
        "model": model,
        "features": [asdict(feature) for feature in features],
        "tables": tables,
        "dim": sizes.dim,
        "learning_rate": LEARNING_RATE,
        "epsilon": EPSILON,
        "initial_accumulator": INITIAL_ACCUMULATOR,
        "batch": sizes.batch,
        "workers": WORKERS,
        "wire": "float32",
        "try_compile": sizes.try_compile,
        **{what: str(file) for what, file in files.items()},
    }
    return Case(model, tables, features, question, dense)


def planned_bytes(case: Case, sizes: Sizes) -> int:
    """Bytes that the planner expects all workers to send each other in a step, under the default plan."""
    tables, features = case.tables, case.features
    specs = tuple(
        TableSpec(str(table), rows, sizes.dim, zipf_alpha=EXPONENT).looked_up_by(
            [float(f.bag or 1) for f in features if f.table == table]
        )
        for table, rows in enumerate(tables)
    )
    workload = Workload(specs, WORKERS * sizes.batch, Dense(parameters=case.dense_parameters))
    topology = load_topology("h100-8").sized(1, WORKERS)  # of one host; what is sent does not depend on its speeds
    plan = default_plan([TableConfig(s.name, s.rows, s.dim, RowWiseAdagrad()) for s in specs], WORKERS)
    placements = {
        name: Placement(ShardingOption(sharding.kind), sharding.ranks) for name, sharding in plan.tables.items()
    }
    prediction = planned(CostModel(workload, topology), placements, "default", {}).prediction
    return sum(prediction.bytes_sent.values())
