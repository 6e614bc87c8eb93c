"""The tables of a model whose inputs a FeatureSpace describes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from embeddings.config import FeatureConfig, TableConfig
from embeddings.optimizers import Adagrad, Adam, LearningRate, RowWiseAdagrad, SparseOptimizer
from foundation.precision import Precision
from inputs.entities import FeatureSpec

OPTIMIZERS: dict[str, Callable[[LearningRate], SparseOptimizer]] = {  # by their names in a job
    "RowWiseAdagrad": RowWiseAdagrad,
    "Adagrad": Adagrad,
    "Adam": Adam,
}


def tables_for(
    features: Mapping[str, FeatureSpec],
    dim: int,
    optimizer: SparseOptimizer,
    seed: int,
    precision: Precision,
    track_updates: bool = False,
) -> dict[str, FeatureConfig]:
    """What `ShardedEmbedding` needs: one table per `FeatureSpec.table`, shared by the inputs that name it; bags are
    averaged."""
    tables = {
        spec.table: TableConfig(
            spec.table,
            spec.vocabulary_size,
            dim,
            optimizer,
            seed=seed,
            precision=precision,
            track_updates=track_updates,
        )
        for spec in features.values()
        if spec.table
    }
    return {name: FeatureConfig(tables[spec.table], "mean") for name, spec in features.items() if spec.table}
