"""FBGEMM's CPU table-batched embedding (TorchRec's kernel), driven over JSON lines. Runs in the peers' environment.

Questions: {} -> versions; {"optimizer", "learning_rate", "rows", "ids" (npy [batches, n] int64, each batch's feature by
feature), "offsets" (npy [F * B + 1] int64 into it), "gradient" (npy [B, F, dim] float32), "epsilon",
"initial_accumulator"} -> {}: a table of zeros is made; {"batch": k} -> {"seconds"}: one step on batch k; {"vectors": k,
"file": path} -> {}: the vectors [B, F, dim] of batch k, written as npy.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice, SplitTableBatchedEmbeddingBagsCodegen

_OPTIMIZERS = {
    "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
    "adagrad": EmbOptimType.EXACT_ADAGRAD,
    "sgd": EmbOptimType.EXACT_SGD,
}


class Step:
    """Lookup and fused update on one table that all features share: of the ways to lay the work out for FBGEMM (one
    long feature, a table per feature) its fastest on CPU."""

    def __init__(self, question: dict[str, Any]) -> None:
        ids = np.load(question["ids"], allow_pickle=False)
        gradient = np.load(question["gradient"], allow_pickle=False)
        self._shape = gradient.shape  # [B, F, dim]
        size, features, dim = self._shape
        options = {"eps": 0.0} if question["optimizer"] == "sgd" else {"eps": question["epsilon"]}
        self._table = SplitTableBatchedEmbeddingBagsCodegen(
            [(question["rows"], dim, EmbeddingLocation.HOST, ComputeDevice.CPU)],
            feature_table_map=[0] * features,
            optimizer=_OPTIMIZERS[question["optimizer"]],
            learning_rate=question["learning_rate"],
            device=torch.device("cpu"),
            **options,
        )
        for weights in self._table.split_embedding_weights():
            weights.zero_()
        for state in self._table.split_optimizer_states():
            for slot in state:
                slot.fill_(question["initial_accumulator"])
        self._ids = [torch.from_numpy(batch) for batch in ids]
        self._offsets = torch.from_numpy(np.load(question["offsets"], allow_pickle=False))
        self._gradient = torch.from_numpy(gradient.reshape(size, features * dim))

    def run(self, batch: int) -> float:
        """Seconds of one step."""
        start = time.perf_counter()
        self._table(self._ids[batch], self._offsets).backward(self._gradient)
        return time.perf_counter() - start

    def vectors(self, batch: int) -> np.ndarray:
        """[B, F, dim] float32."""
        with torch.no_grad():
            return self._table(self._ids[batch], self._offsets).numpy().reshape(self._shape)


def main() -> None:
    step: Step | None = None
    for line in sys.stdin:
        question = json.loads(line)
        answer: dict[str, Any] = {}
        if "optimizer" in question:
            step = Step(question)
        elif "vectors" in question:
            assert step
            np.save(question["file"], step.vectors(question["vectors"]))
        elif "batch" in question:
            assert step
            answer = {"seconds": step.run(question["batch"])}
        else:
            answer = {package: version(package) for package in ("torch", "fbgemm-gpu-cpu")}
            answer["threads"] = torch.get_num_threads()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
