"""The tables of a model whose inputs a FeatureSpace describes."""

from __future__ import annotations

from collections.abc import Mapping

from embeddings.config import FeatureConfig, TableConfig
from embeddings.optimizers import LearningRate, RowWiseAdagrad
from foundation.precision import Precision
from inputs.entities import FeatureSpec


def tables_for(
    features: Mapping[str, FeatureSpec], dim: int, learning_rate: LearningRate, seed: int, precision: Precision
) -> dict[str, FeatureConfig]:
    """What `ShardedEmbedding` needs: one table per `FeatureSpec.table`, under row-wise Adagrad, shared by the inputs
    that name it; bags are averaged."""
    tables = {
        spec.table: TableConfig(
            spec.table, spec.vocabulary_size, dim, RowWiseAdagrad(learning_rate), seed=seed, precision=precision
        )
        for spec in features.values()
        if spec.table
    }
    return {name: FeatureConfig(tables[spec.table], "mean") for name, spec in features.items() if spec.table}
