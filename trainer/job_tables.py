"""A job's tables as the planner sees them, from its prepared data: a batch is made and its ids are counted."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from embeddings.planner.tables import Dense, TableSpec, Workload
from embeddings.planner.zipf import fitted_alpha
from foundation.errors import UserError
from foundation.precision import Precision
from inputs.batches import ranking_batches, retrieval_batches
from inputs.entities import FeatureSpec
from inputs.features import Inputs
from inputs.ragged import Ragged
from inputs.schema import ITEM, USER
from retrieval.encoders.features import chosen, one_per_item
from trainer.encoder_cost import encoder_cost
from trainer.workspace import Workspace

RANKERS_OPTIMIZER = "RowWiseAdagrad"


def workloads_of(workspace: Workspace) -> dict[str, Workload]:
    """Of the retrieval model and of the ranker.

    Raises:
      UserError: the job's data is not prepared, or has no positive event to train on.
    """
    if workspace.run.made_from("data") is None:
        raise UserError(
            f"{workspace.run.path}: the job's data is not prepared, and how many rows its tables have is in the data.",
            f"Prepare it: headrace data prepare {workspace.command}; or describe the tables: --tables FILE.",
        )
    return {"retrieval": _retrieval(workspace), "ranking": _ranking(workspace)}


def _retrieval(workspace: Workspace) -> Workload:
    config, space, job = workspace.job.retrieval, workspace.space, workspace.job
    positives = workspace.interactions.between(0, workspace.split.train_end)
    if not len(positives):
        raise UserError("no positive event in the training period.", "Change inputs.positive or inputs.split.")
    batches = retrieval_batches(
        space,
        positives,
        workspace.histories,
        job.inputs.history_length,
        config.batch_size,
        job.seed,
        beside=config.beside,
    )
    batch = batches.batch(0, len(batches) // 2)
    query_features = chosen("query_features", space.query_features, config.query_features)
    item_features = chosen("item_features", space.item_features, config.item_features)
    query, item = (_width(of, config.embedding_dim) for of in (query_features, item_features))
    rows, table = len(batch["item_position"]), (config.embedding_dim, config.embedding_optimizer)
    sampled = len(batch["sampled_position"]) if "sampled_position" in batch else 0
    candidates = config.batch_size * (1 + config.negatives.queue) + sampled
    scores = Dense(6.0 * config.dim * candidates)  # each query against every candidate
    if config.encoder != "bag":
        read = len(one_per_item(query_features, space.item_features)) * config.embedding_dim
        width, encoder = encoder_cost(config, read, len(_values(batch["history_item_id"])) / rows)
        query, scores = query - read + width, scores + encoder
    towers = [
        part
        for width, dim in ((query, config.dim - 1), (item, config.dim))
        for part in (Dense.stack([width, dim]), Dense.stack([width, *config.units, dim]))
        if config.tower == "mlp"
    ]
    tables = _tables({**query_features, **item_features}, batch, rows, *table, config.embedding_precision)
    return Workload(tables, config.batch_size, sum(towers, scores))


def _ranking(workspace: Workspace) -> Workload:
    config, space, job = workspace.job.ranking, workspace.space, workspace.job
    lists = workspace.lists(0, workspace.split.train_end)
    batches = ranking_batches(space, lists, workspace.histories, job.inputs.history_length, config.batch_size, job.seed)
    batch = batches.batch(0, len(batches) // 2)
    rows = len(batch["item_position"])
    features = {**space.query_features, **space.item_features}
    query, item = (_width(of, config.dim) for of in (space.query_features, space.item_features))
    width = query + item + _crossed(space.query_features, space.item_features) * (config.dim + 1)
    tasks = max(len(config.resolved(space.schema.labels, space.label_means).objectives), 1)
    experts = [Dense.stack([width, *config.expert_units])] * config.num_experts
    heads = [Dense.stack([config.expert_units[-1], *config.head_units, 1])] * tasks
    others = Dense.stack([width, tasks * (config.num_experts + 1)])  # gates and the linear path
    tables = _tables(features, batch, rows, config.dim, RANKERS_OPTIMIZER, config.embedding_precision)
    return Workload(tables, config.batch_size, sum([*experts, *heads], others))


def _width(features: Mapping[str, FeatureSpec], dim: int) -> int:
    return sum(dim if spec.table else 1 for spec in features.values())


def _crossed(query: Mapping[str, FeatureSpec], item: Mapping[str, FeatureSpec]) -> int:
    """Pairs of inputs that `ranking.interactions` multiplies."""
    return sum(
        bool(of_query.table and of_query.table == of_item.table) or (of_query.name, of_item.name) == (USER, ITEM)
        for of_query in query.values()
        for of_item in item.values()
    )


def _tables(
    features: Mapping[str, FeatureSpec], batch: Inputs, examples: int, dim: int, optimizer: str, precision: Precision
) -> tuple[TableSpec, ...]:
    """The features' tables, looked up as often as in this batch of so many examples, by the law that its distinct ids
    speak for."""
    looked_up: dict[str, list[np.ndarray]] = {}
    for name, spec in features.items():
        if spec.table:
            looked_up.setdefault(spec.table, []).append(_values(batch[name]))
    sizes = {spec.table: spec.vocabulary_size for spec in features.values() if spec.table}
    tables = []
    for name, parts in looked_up.items():
        ids = np.concatenate(parts)
        alpha = fitted_alpha(sizes[name], len(ids), len(np.unique(ids))) if len(ids) else 0.0
        factors = [max(len(part) / examples, 1e-6) for part in parts]
        table = TableSpec(name, sizes[name], dim, zipf_alpha=alpha, optimizer=optimizer, precision=precision)
        tables.append(table.looked_up_by(factors))
    return tuple(tables)


def _values(value: np.ndarray | Ragged) -> np.ndarray:
    return value.values if isinstance(value, Ragged) else value
