"""An index as a SavedModel: ScaNN's TensorFlow ops over the very trees that the Python index searches.

What ScaNN wrote for a searcher is what its op `tensors_to_scann` takes: nothing is trained again, so the answers are
the same. The op builds a searcher from those tensors each time it runs, a copy of all vectors; therefore the first call
keeps the searcher's handle in a variable of the serving process, under a lock, and every later call finds it there.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from foundation.errors import UserError
from foundation.files import atomic_directory, json_digest
from foundation.tf import tf, tf_write_errors
from retrieval.index.basis import Basis
from retrieval.index.index import MANIFEST as INDEX_MANIFEST
from retrieval.index.index import Index
from retrieval.index.searcher import MANIFEST as SEARCHER_MANIFEST
from retrieval.index.searcher import SCANN, Searcher, basis_of
from retrieval.index.setting import Effort, TreeSetting
from retrieval.index.sharded.index import ShardedIndex
from retrieval.index.sharded.shard import IDS

CARD = "headrace_index.json"
_KEY = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
# the arguments of the op in turn: ScaNN's file, or the type of what stands for it where there is none
_ASSETS = (
    ("dataset.npy", tf.float32),
    ("scann_config.pb", tf.string),
    ("serialized_partitioner.pb", tf.string),
    ("datapoint_to_token.npy", tf.int32),
    ("ah_codebook.pb", tf.string),
    ("hashed_dataset.npy", tf.uint8),
    ("int8_dataset.npy", tf.int8),
    ("int8_multipliers.npy", tf.float32),
    ("dp_norms.npy", tf.float32),
)


class _Part(NamedTuple):
    folder: Path
    ids: np.ndarray
    size: int
    dim: int
    setting: TreeSetting | None
    effort: Effort | None
    basis: Basis | None


def export_saved_model(index: str | Path, out: str | Path, k: int = 100) -> None:
    """Writes `out`, a SavedModel: signature `queries` [Q, D] float32 -> `ids` [Q, k] int64, `scores` [Q, k] float32, as
    `ShardedIndex.search` gives them at the index's own effort (positions, of an index that a job made). It runs
    wherever TensorFlow has ScaNN's ops: in Python after `import scann`, in TF Serving built with them.

    Raises:
      UserError: the index is missing or damaged, or is of a kind that the TensorFlow ops cannot hold (SOAR, bfloat16).
    """
    parts = _parts_of(Path(index))
    for part in parts:
        _see_supported(Path(index), part.setting)
    module = _Served(parts, k)
    with atomic_directory(out) as folder, tf_write_errors(out):
        tf.saved_model.save(module, str(folder), signatures={_KEY: module.serve})
        card = {"k": k, "dim": parts[0].dim, "size": sum(part.size for part in parts), "shards": len(parts)}
        efforts = [None if part.effort is None else asdict(part.effort) for part in parts]
        (folder / CARD).write_text(json.dumps({**card, "efforts": efforts}, indent=2) + "\n")


def _parts_of(path: Path) -> list[_Part]:
    if (path / INDEX_MANIFEST).exists():
        Index.check(path)
        size, dim, setting = Searcher.check(path)
        ids = np.arange(size, dtype=np.int64)
        effort = None if setting is None else setting.effort
        return [_Part(path / SCANN, ids, size, dim, setting, effort, basis_of(path, setting))]
    facts = ShardedIndex.check(path)
    parts = []
    for name in facts.shards:
        size, dim, setting = Searcher.check(path / name)
        ids = np.load(path / name / IDS, allow_pickle=False)
        effort = None if setting is None else facts.effort
        parts.append(_Part(path / name / SCANN, ids, size, dim, setting, effort, basis_of(path / name, setting)))
    return parts


def _see_supported(path: Path, setting: TreeSetting | None) -> None:
    if setting is None:
        return
    refused = {
        "SOAR": (setting.soar is not None, "index.soar=null"),
        "reordering in bfloat16": (setting.reorder_precision == "bfloat16", "index.reorder_precision=float32"),
    }
    for what, (found, instead) in refused.items():
        if found:
            raise UserError(
                f"{path}: this index has {what}, which ScaNN's TensorFlow ops do not know.",
                f"Build one for TensorFlow: --set {instead}.",
            )


class _Served(tf.Module):
    def __init__(self, parts: list[_Part], k: int) -> None:
        from scann.scann_ops.py import scann_ops

        super().__init__()
        self._ops, self._parts, self._k = scann_ops, parts, k
        self.ids = [tf.Variable(part.ids, trainable=False) for part in parts]
        self.tensors = [[_variable(part.folder / name, kind) for name, kind in _ASSETS] for part in parts]
        self._names = [_name(part) for part in parts]
        queries = tf.TensorSpec([None, parts[0].dim], tf.float32, "queries")
        self.serve = tf.function(self._serve, input_signature=[queries])

    def _serve(self, queries: tf.Tensor) -> dict[str, tf.Tensor]:
        answers = [self._search(shard, queries) for shard in range(len(self._parts))]
        ids, scores = (tf.concat(parts, axis=1) for parts in zip(*answers, strict=True))
        short = tf.maximum(self._k - tf.shape(ids)[1], 0)
        ids = tf.pad(ids, [[0, 0], [0, short]], constant_values=-1)
        scores = tf.pad(scores, [[0, 0], [0, short]], constant_values=-np.inf)
        order = tf.argsort(ids, axis=1, stable=True)  # among equal scores top_k keeps the order it finds
        ids, scores = tf.gather(ids, order, batch_dims=1), tf.gather(scores, order, batch_dims=1)
        scores, places = tf.math.top_k(scores, self._k)
        return {"ids": tf.gather(ids, places, batch_dims=1), "scores": scores}

    def _search(self, shard: int, queries: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        part = self._parts[shard]
        wanted, leaves, reorder = min(self._k, part.size), -1, -1
        if part.setting is not None and part.effort is not None:
            leaves = max(1, min(part.effort.leaves_to_search, part.setting.leaves))
            reorder = min(max(part.effort.reorder, wanted), part.size)
        if part.basis is not None:  # as `Basis.of_queries`
            turned = tf.matmul(tf.cast(queries, tf.float64), part.basis.queries, transpose_b=True)
            queries = tf.cast(turned, tf.float32)
        rows, scores = self._ops.scann_search_batched(self._handle(shard), queries, wanted, reorder, leaves, False)
        found = tf.math.is_finite(scores)  # ScaNN fills up with row 0 and the score NaN
        ids = tf.gather(self.ids[shard], tf.where(found, tf.cast(rows, tf.int64), 0))
        return tf.where(found, ids, -1), tf.where(found, scores, -np.inf)

    def _handle(self, shard: int) -> tf.Tensor:
        """The searcher of a shard: made by the first call of the process, found by the others."""
        name = self._names[shard]
        kept = tf.raw_ops.VarHandleOp(container="", shared_name=name, dtype=tf.resource, shape=[])
        lock = tf.raw_ops.MutexLock(mutex=tf.raw_ops.MutexV2(container="", shared_name=f"{name}-lock"))
        with tf.control_dependencies([lock]):
            there = tf.raw_ops.VarIsInitializedOp(resource=kept)

        def make() -> tf.Tensor:
            handle = self._ops.tensors_to_scann(*self.tensors[shard])
            with tf.control_dependencies([tf.raw_ops.AssignVariableOp(resource=kept, value=handle)]):
                return tf.identity(handle)

        handle = tf.cond(there, lambda: tf.raw_ops.ReadVariableOp(resource=kept, dtype=tf.resource), make)
        with tf.control_dependencies([handle]):
            tf.raw_ops.ConsumeMutexLock(mutex_lock=lock)
        return handle


def _variable(file: Path, kind: tf.DType) -> tf.Variable:
    if not file.exists():
        value: Any = tf.zeros([], kind) if kind != tf.string else tf.constant("")
    elif file.suffix == ".npy":
        value = np.load(file, allow_pickle=False)
        value = tf.zeros([], kind) if not value.size else value
    else:
        value = [file.read_bytes()]
    return tf.Variable(value, trainable=False, dtype=kind)


def _name(part: _Part) -> str:
    """Of a searcher in the process that serves it: another for any other index."""
    return f"headrace-index-{json_digest((part.folder.parent / SEARCHER_MANIFEST).read_text())}"
