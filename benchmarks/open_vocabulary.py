"""One table trained on a stream of open vocabulary and judged: the child process of open_vocabulary_suite.

`python -m benchmarks.open_vocabulary QUESTION` prints one line of JSON. QUESTION: {"table": "dynamic", "hashed" or
"popularity", "sizes": those of the suite, "hashed_bytes": what a hashed table may take}.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any

import numpy as np

from embeddings import FeatureConfig, FrequencyAdmission, RowWiseAdagrad, ShardedEmbedding, TableConfig
from embeddings.hashing import splitmix64_of
from foundation.tf import tf

_EXPONENT = 1.05
_RANK = 4  # of the hidden worth
_RATE = 0.1
_ENTRY_BYTES = 20  # of the id table, for each place
_LOAD = 0.52  # share of its places that are taken, on average between two doublings


class World:
    """The stream and the truth behind it, functions of counters alone: batch k is made when it is asked for."""

    def __init__(self, sizes: dict[str, Any]) -> None:
        self._sizes = sizes
        self._shares = np.cumsum(np.arange(1, sizes["regulars"] + 1, dtype=np.float64) ** -_EXPONENT)
        self._shares /= self._shares[-1]

    def regulars(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """[count] int64 ids, by their popularity."""
        ranks = np.searchsorted(self._shares, generator.random(count))
        return splitmix64_of(ranks.astype(np.uint64)).astype(np.int64)

    def batch(self, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(contexts [B] int64, ids [B] int64, labels [B] float32)."""
        size = self._sizes["batch"]
        generator = np.random.default_rng((7, k))
        one_offs = splitmix64_of(np.arange(size // 2, dtype=np.uint64) + np.uint64((k + 1) * size) + np.uint64(1 << 40))
        ids = np.concatenate([one_offs.astype(np.int64), self.regulars(generator, size - size // 2)])
        contexts = generator.integers(0, self._sizes["contexts"], size)
        labels = generator.random(size) < 1 / (1 + np.exp(-self.worth(contexts, ids)))
        order = generator.permutation(size)
        return contexts[order], ids[order], labels[order].astype(np.float32)

    def worth(self, contexts: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """[n] float64: standard normal vectors of both, multiplied."""
        return (_hidden(contexts, 1) * _hidden(ids, 2)).sum(axis=1)


def _hidden(ids: np.ndarray, kind: int) -> np.ndarray:
    """[n, _RANK], of about normal law: the sum of four uniform draws of the id's hash."""
    counter = splitmix64_of(ids.astype(np.uint64) ^ np.uint64(kind << 60))
    words = splitmix64_of(counter[:, None] + np.arange(_RANK, dtype=np.uint64)[None])
    lanes = np.stack([(words >> np.uint64(shift)) & np.uint64(0xFFFF) for shift in (0, 16, 32, 48)])
    return (lanes.astype(np.float64) / 65536 - 0.5).sum(axis=0) * np.sqrt(3.0)


def _ndcg(scores: np.ndarray, gains: np.ndarray, k: int) -> np.ndarray:
    """[lists]: NDCG@k of lists [lists, size] ranked by their scores, the gain of each being linear."""
    discounts = 1 / np.log2(np.arange(2, k + 2))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    ideal = -np.sort(-gains, axis=1)[:, :k]
    return (np.take_along_axis(gains, order, axis=1) @ discounts) / (ideal @ discounts)


def main() -> None:
    question = json.loads(sys.argv[1])
    sizes = question["sizes"]
    world = World(sizes)
    generator = np.random.default_rng(11)
    lists, size = sizes["lists"], sizes["list_size"]
    ids = world.regulars(generator, lists * size)
    contexts = np.repeat(generator.integers(0, sizes["contexts"], lists), size)
    worth = world.worth(contexts, ids)
    started = time.perf_counter()
    if question["table"] == "popularity":
        counts: dict[int, int] = {}
        for k in range(sizes["batches"]):
            distinct, number = np.unique(world.batch(k)[1][: sizes["batch"] // 8], return_counts=True)
            for identifier, count in zip(distinct.tolist(), number.tolist(), strict=True):
                if count > 1 or identifier in counts:
                    counts[identifier] = counts.get(identifier, 0) + count
        scores = np.array([counts.get(int(i), 0) for i in ids], float)
        answer: dict[str, Any] = {"rows": 0, "bytes": 0}
    else:
        model = _Model(question, sizes)
        for k in range(sizes["batches"]):
            model.step(*(tf.constant(part) for part in world.batch(k)))
        scores = model.score(tf.constant(contexts), tf.constant(ids)).numpy()
        answer = model.told()
    ndcg = _ndcg(scores.reshape(lists, size), 1 / (1 + np.exp(-worth)).reshape(lists, size), 10)
    means = [generator.choice(ndcg, len(ndcg)).mean() for _ in range(1000)]
    answer["ndcg"] = [float(np.quantile(means, 0.025)), float(ndcg.mean()), float(np.quantile(means, 0.975))]
    answer["seconds"] = time.perf_counter() - started
    answer["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    answer["distinct_ids"] = sizes["batches"] * (sizes["batch"] // 2)  # the one-offs alone
    print(json.dumps(answer))


class _Model:
    """A dot product of the context's and the id's rows, by logistic loss."""

    def __init__(self, question: dict[str, Any], sizes: dict[str, Any]) -> None:
        optimizer = RowWiseAdagrad(_RATE)
        self._dim = sizes["dim"]
        self._hashed = None
        if question["table"] == "dynamic":
            admission = FrequencyAdmission(sizes["threshold"], sizes["counters"])
            self._table = TableConfig("ids", None, self._dim, optimizer, admission=admission)
        else:
            self._hashed = int(question["hashed_bytes"] // (self._dim * 4 + 4))
            self._table = TableConfig("ids", self._hashed, self._dim, optimizer)
        contexts = TableConfig("contexts", sizes["contexts"], self._dim, optimizer, initializer_scale=0.5)
        self._layer = ShardedEmbedding(
            {"id": FeatureConfig(self._table, None), "context": FeatureConfig(contexts, None)}
        )
        self._counters = sizes["counters"] if self._hashed is None else 0
        self.step = tf.function(self._step)
        self.score = tf.function(self._score)

    def _score(self, contexts: tf.Tensor, ids: tf.Tensor, training: bool = False) -> tf.Tensor:
        if self._hashed is not None:
            ids = tf.math.floormod(ids, self._hashed)  # the ids are hashes already
        vectors = self._layer({"id": ids, "context": contexts}, training=training)
        return tf.reduce_sum(vectors["id"] * vectors["context"], axis=1)

    def _step(self, contexts: tf.Tensor, ids: tf.Tensor, labels: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            logits = self._score(contexts, ids, training=True)
            loss = tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))
        tape.gradient(loss, [self._layer.gradient_trap])

    def told(self) -> dict[str, Any]:
        """Rows, and bytes of rows, slots, ids and counters."""
        if self._hashed is not None:
            return {"rows": self._hashed, "bytes": self._hashed * (self._dim * 4 + 4)}
        counts = {name: int(value) for name, value in self._layer.counts()["ids"].items()}
        rows = counts["rows"] * (self._dim * 4 + 4 + 8)  # with the accumulator and the id
        index = counts["rows"] / _LOAD * _ENTRY_BYTES
        return {"rows": counts["rows"], "bytes": rows + index + self._counters, "rejected": counts["rejected"]}


if __name__ == "__main__":
    main()
