"""DLRM and DCN-v2 in PyTorch over FBGEMM's CPU tables (TorchRec's kernel), trained step by step over JSON lines. Runs
in the peers' environment.

Questions: {} -> versions; {"model", "tables": rows of each, "dim", "learning_rate", "epsilon", "initial_accumulator",
"threads", "try_compile", "weights" (npz: dense weights by name; "rows" [n, dim], which every table starts with,
repeated), "batches" (npz: ids [batches, F, B] int64, dense [batches, B, 13] float32, labels [batches, B] float32)} ->
{"compiled"}: the model is made; {"batch": k} -> {"seconds", "loss"}: one step on batch k; {"rows": k, "file": path} ->
{}: the vectors [B, F * dim] of batch k, written as npy.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice, SplitTableBatchedEmbeddingBagsCodegen
from torch import nn
from torch.nn import functional

_TRIALS = 5


class DLRM(nn.Module):
    """As TorchRec's DLRM has it, with a flattened index_select of the pairs."""

    def __init__(self, weights: dict[str, torch.Tensor], features: int, dim: int) -> None:
        super().__init__()
        self.bottom, self.top = _tower("bottom", weights, ends_in_relu=True), _tower("top", weights, ends_in_relu=False)
        self._shape = (-1, features + 1, dim)
        first, second = torch.tril_indices(features + 1, features + 1, -1)
        self.register_buffer("pairs", first * (features + 1) + second)

    def forward(self, dense: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """dense: [B, 13]. vectors: [B, F * dim]. Gives logits [B]."""
        numbers = self.bottom(dense)
        stacked = torch.cat([numbers, vectors], dim=1).view(self._shape)
        products = torch.bmm(stacked, stacked.transpose(1, 2)).flatten(1)
        crossed = products.index_select(1, self.pairs)
        return self.top(torch.cat([numbers, crossed], dim=1)).squeeze(1)


class DCNv2(nn.Module):
    """Stacked, its cross layers of low rank, as TorchRec's LowRankCrossNet has them."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        layers = sum(name.endswith("_down/kernel") for name in weights)
        self.down = nn.ModuleList(_linear(f"cross_{i}_down", weights) for i in range(layers))
        self.up = nn.ModuleList(_linear(f"cross_{i}_up", weights) for i in range(layers))
        self.deep = _tower("deep", weights, ends_in_relu=False)

    def forward(self, dense: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """As `DLRM.forward`."""
        first = torch.cat([dense, vectors], dim=1)
        crossed = first
        for down, up in zip(self.down, self.up, strict=True):
            crossed = torch.addcmul(crossed, first, up(down(crossed)))
        return self.deep(crossed).squeeze(1)


def _linear(name: str, weights: dict[str, torch.Tensor]) -> nn.Linear:
    kernel, bias = weights[f"{name}/kernel"], weights.get(f"{name}/bias")
    layer = nn.Linear(*kernel.shape, bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(kernel.T)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer


def _tower(name: str, weights: dict[str, torch.Tensor], ends_in_relu: bool) -> nn.Sequential:
    count = sum(key.startswith(f"{name}_") and key.endswith("/kernel") for key in weights)
    layers: list[nn.Module] = []
    for i in range(count):
        layers.append(_linear(f"{name}_{i}", weights))
        if ends_in_relu or i < count - 1:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class Training:
    """A model and its training step: the tables' update is fused into the backward pass, dense weights are trained by
    torch's fused Adagrad."""

    def __init__(self, question: dict[str, Any]) -> None:
        torch.set_num_threads(question["threads"])
        with np.load(question["weights"], allow_pickle=False) as file:
            weights = {name: torch.from_numpy(value) for name, value in file.items()}
        tables, dim, rate = question["tables"], question["dim"], question["learning_rate"]
        self._table = _tables(question, weights["rows"])
        model = DLRM(weights, len(tables), dim) if question["model"] == "dlrm" else DCNv2(weights)
        self._model = model
        self._optimizer = torch.optim.Adagrad(
            model.parameters(), rate, initial_accumulator_value=question["initial_accumulator"], eps=1e-10, fused=True
        )
        with np.load(question["batches"], allow_pickle=False) as batches:
            # FBGEMM reads ids feature by feature
            self._ids = [torch.from_numpy(np.ascontiguousarray(ids).reshape(-1)) for ids in batches["ids"]]
            self._dense = [torch.from_numpy(np.ascontiguousarray(dense)) for dense in batches["dense"]]
            self._labels = [torch.from_numpy(np.ascontiguousarray(labels)) for labels in batches["labels"]]
        self._offsets = torch.arange(len(self._ids[0]) + 1)
        self._loss = self._eager_loss
        self.compiled = question["try_compile"] and self._compiled_is_faster()

    def _eager_loss(self, dense: torch.Tensor, vectors: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return functional.binary_cross_entropy_with_logits(self._model(dense, vectors), labels)

    def _compiled_is_faster(self) -> bool:
        """Tries torch.compile on the dense part, forward and backward, and keeps it if it is faster."""
        compiled = torch.compile(self._eager_loss)
        ways = {False: self._eager_loss, True: compiled}
        rows = len(self._labels[0])
        vectors = torch.zeros(rows, len(self._ids[0]) // rows * self._table.max_D, requires_grad=True)
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(_TRIALS):
            for way, loss in ways.items():
                start = time.perf_counter()
                loss(self._dense[0], vectors, self._labels[0]).backward()
                seconds[way].append(time.perf_counter() - start)
                self._optimizer.zero_grad()
                vectors.grad = None
        faster = statistics.median(seconds[True]) < statistics.median(seconds[False])
        self._loss = ways[faster]
        return faster

    def run(self, batch: int) -> tuple[float, float]:
        """Seconds and loss of one step."""
        start = time.perf_counter()
        vectors = self._table(self._ids[batch], self._offsets)
        loss = self._loss(self._dense[batch], vectors, self._labels[batch])
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        value = loss.item()
        return time.perf_counter() - start, value

    def rows(self, batch: int) -> np.ndarray:
        """[B, F * dim] float32: the vectors of a batch."""
        with torch.no_grad():
            return self._table(self._ids[batch], self._offsets).numpy()


def _tables(question: dict[str, Any], rows: torch.Tensor) -> SplitTableBatchedEmbeddingBagsCodegen:
    """FBGEMM's tables, one for each feature, that start with `rows` over and over."""
    table = SplitTableBatchedEmbeddingBagsCodegen(
        [(size, question["dim"], EmbeddingLocation.HOST, ComputeDevice.CPU) for size in question["tables"]],
        pooling_mode=PoolingMode.SUM,
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=question["learning_rate"],
        eps=question["epsilon"],
        device=torch.device("cpu"),
    )
    for weights in table.split_embedding_weights():
        for part in weights.split(len(rows)):
            part.copy_(rows[: len(part)])
    for state in table.split_optimizer_states():
        for slot in state:
            slot.fill_(question["initial_accumulator"])
    return table


def main() -> None:
    training: Training | None = None
    for line in sys.stdin:
        question = json.loads(line)
        answer: dict[str, Any] = {}
        if "model" in question:
            training = Training(question)
            answer = {"compiled": training.compiled}
        elif "batch" in question:
            assert training
            seconds, loss = training.run(question["batch"])
            answer = {"seconds": seconds, "loss": loss}
        elif "rows" in question:
            assert training
            np.save(question["file"], training.rows(question["rows"]))
        else:
            answer = {package: version(package) for package in ("torch", "fbgemm-gpu-cpu")}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
