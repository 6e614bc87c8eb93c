"""A ranker's predictions over the lists of a period, and how they are judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import call

import numpy as np

from evaluation.bootstrap import ClusterBootstrap, Interval
from evaluation.config import EvaluationConfig
from evaluation.ranking import RankedLists, binary_metrics, list_ndcg, number_metrics
from foundation.tensors import to_tensors
from foundation.tf import as_written, tf
from inputs.batches import list_inputs
from inputs.features import FeatureSpace
from inputs.histories import Histories
from inputs.lists import PeriodLists
from ranking.config import Objective
from ranking.ranker import Ranker

MAIN_METRIC = "ndcg@10"
LISTS_PER_BLOCK = 512


class Predictor:
    """Predictions as serving makes them: position plays no part. run: how ranks that hold the model together all
    compute the same (`Strategy.run`)."""

    def __init__(
        self,
        model: Ranker,
        space: FeatureSpace,
        histories: Histories,
        history_length: int,
        run: Callable[..., dict[str, tf.Tensor]] = call,
    ) -> None:
        self._space, self._histories, self._history_length = space, histories, history_length

        def predict(query: dict, items: dict, splits: tf.Tensor) -> dict[str, tf.Tensor]:
            predictions = model.predict(query, items, splits)
            return {**predictions, "value": model.value(predictions)}

        self._predict = tf.function(as_written(partial(run, predict)), reduce_retracing=True)

    def predict(self, lists: PeriodLists, chosen: np.ndarray) -> RankedLists:
        """The chosen lists (numbers) with every objective's prediction, the value, and the labels."""
        users, lengths = [], []
        predictions: dict[str, list[np.ndarray]] = {}
        labels: dict[str, list[np.ndarray]] = {}
        for start in range(0, len(chosen), LISTS_PER_BLOCK):
            rows = lists.gather(chosen[start : start + LISTS_PER_BLOCK])
            inputs = list_inputs(self._space, rows, self._histories, self._history_length)
            query = to_tensors({name: inputs[name] for name in self._space.query_features})
            items = to_tensors({name: inputs[name] for name in self._space.item_features})
            outputs = self._predict(query, items, tf.convert_to_tensor(inputs["list_row_splits"]))
            for name, values in outputs.items():
                predictions.setdefault(name, []).append(values.numpy())
            for label in self._space.schema.labels:
                labels.setdefault(label.name, []).append(rows[f"label_{label.name}"].values)
            users.append(rows["user"].values[rows["user"].row_splits[:-1]])
            lengths.append(rows["user"].lengths)
        return RankedLists(
            np.concatenate(users),
            np.concatenate([[0], np.cumsum(np.concatenate(lengths))]),
            {name: np.concatenate(parts) for name, parts in predictions.items()},
            {name: np.concatenate(parts) for name, parts in labels.items()},
        )


def sampled(lists: PeriodLists, most: int, seed: int) -> np.ndarray:
    """Numbers of at most so many lists, a seeded sample in the log's order."""
    return np.sort(np.random.default_rng(seed).permutation(len(lists))[:most])


def judge(
    lists: RankedLists, objectives: Sequence[Objective], config: EvaluationConfig, seed: int
) -> dict[str, dict[str, Interval]]:
    """Each objective by its own metrics, and "value" by how it orders lists for the objective that comes last: the one
    closest to satisfaction (a like, not the click)."""
    bootstrap = ClusterBootstrap(lists.users, config.bootstrap_samples, config.confidence, seed)
    judged = {
        objective.name: (binary_metrics if objective.kind == "binary" else number_metrics)(
            lists, objective.name, objective.label, bootstrap
        )
        for objective in objectives
    }
    judged["value"] = {
        MAIN_METRIC: bootstrap.mean(list_ndcg(lists, "value", objectives[-1].label, 10)),
        **{
            f"{MAIN_METRIC}_{objective.label}": bootstrap.mean(list_ndcg(lists, "value", objective.label, 10))
            for objective in objectives[:-1]
        },
    }
    return judged
