"""One worker of a model in training with TorchRec over FBGEMM's CPU tables and gloo, driven over JSON lines. Runs in
the peers' environment.

Questions: {} -> versions; {"model": "dlrm" or "embedding", "features": [{"name", "table", "bag"}], "tables": rows of
each, "dim", "learning_rate", "epsilon", "initial_accumulator", "batch": examples of one worker, "workers", "rank",
"ranks", "rendezvous": a file that is not there yet, "try_compile", "weights" (npz: dense weights by name; "rows" [n,
dim], which every table starts with, repeated), "batches" (npz, see `scaling_problem.write_batches`)} -> {"sharding":
how many tables of each type, "compiled"}: the model is made; {"train": [k ...], "share": true or false} -> {"began",
"ended": seconds on the machine's clock, "losses": this worker's mean of each step}: its share of those batches is
trained on, or where it is alone and "share" is false the whole batches; {"vectors": n, "file": path} -> {}: the vectors
[n, features, dim] of the first n examples of its share of batch 0, alone of each share, as npy.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import sys
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # read when torch.distributed is imported
sys.path.append(str(Path(__file__).parent))  # behind all else: it shadows nothing

import numpy as np
import torch
import torch.distributed
from torch import nn
from torch.nn import functional
from torch_recommenders_peer import DLRM
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, PoolingType
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.optim import RowWiseAdagrad
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

_TRIALS = 3
_CPU = torch.device("cpu")


class Model(nn.Module):
    """Sharded tables, and DLRM's dense layers over them, or the sum of all that is looked up."""

    def __init__(self, embeddings: EmbeddingBagCollection, names: list[str], dlrm: DLRM | None) -> None:
        super().__init__()
        self.embeddings, self.dlrm, self._names = embeddings, dlrm, names

    def looked_up(self, ids: KeyedJaggedTensor) -> torch.Tensor:
        """[B, features * dim], feature by feature."""
        vectors = self.embeddings(ids)
        if list(vectors.keys()) == self._names:
            return vectors.values()
        by_name = vectors.to_dict()  # tables stand in the order of who holds them
        return torch.cat([by_name[name] for name in self._names], dim=1)

    def forward(self, ids: KeyedJaggedTensor, dense: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss []: the mean over the examples."""
        vectors = self.looked_up(ids)
        if self.dlrm is None:
            return vectors.sum() / len(labels)
        return functional.binary_cross_entropy_with_logits(self.dlrm(dense, vectors), labels)


class Worker:
    """A model and its training step: TorchRec's planner lays the tables over the workers, their update is fused into
    the backward pass, DistributedDataParallel sums dense gradients, torch's fused Adagrad trains dense weights."""

    def __init__(self, question: dict[str, Any]) -> None:
        rank, ranks = question["rank"], question["ranks"]
        with np.load(question["weights"], allow_pickle=False) as file:
            weights = {name: torch.from_numpy(value) for name, value in file.items()}
        names = [feature["name"] for feature in question["features"]]
        dlrm = DLRM(weights, len(names), question["dim"]) if question["model"] == "dlrm" else None
        self.compiled = bool(dlrm) and question["try_compile"] and _compiled_is_faster(dlrm, question)
        if dlrm is not None and self.compiled:
            dlrm.compile()
        self._model, plan = _distributed(Model(_tables(question), names, dlrm), question)
        self.sharding = Counter(
            parameter.sharding_type for module in plan.plan.values() for parameter in module.values()
        )
        _fill(self._model, weights["rows"], question["initial_accumulator"])
        self._optimizer = None
        if dlrm is not None:
            options = {"initial_accumulator_value": question["initial_accumulator"], "eps": 1e-10, "fused": True}
            self._optimizer = torch.optim.Adagrad(dlrm.parameters(), question["learning_rate"], **options)
        batch = question["batch"]
        with np.load(question["batches"], allow_pickle=False) as batches:
            own, every = slice(rank * batch, (rank + 1) * batch), slice(0, question["workers"] * batch)
            self._shares = _batches(batches, question["features"], own)
            self._wholes = _batches(batches, question["features"], every) if ranks == 1 else self._shares

    def train(self, batches: list[int], share: bool) -> dict[str, Any]:
        """See the module."""
        given = self._shares if share else self._wholes
        losses, began = [], time.perf_counter()
        for batch in batches:
            loss = self._model(*given[batch])
            if self._optimizer is not None:
                self._optimizer.zero_grad()
            loss.backward()
            if self._optimizer is not None:
                self._optimizer.step()
            losses.append(loss.item())
        return {"began": began, "ended": time.perf_counter(), "losses": losses}

    def vectors(self, examples: int) -> np.ndarray:
        """See the module."""
        ids, _, labels = self._wholes[0]
        with torch.no_grad():
            vectors = self._model.module.looked_up(ids).view(len(labels), len(ids.keys()), -1)
        by_share = vectors.view(-1, len(self._shares[0][2]), *vectors.shape[1:])[:, :examples]
        return by_share.reshape(-1, *vectors.shape[1:]).numpy()


def _tables(question: dict[str, Any]) -> EmbeddingBagCollection:
    """Not yet anywhere."""
    tables = [
        EmbeddingBagConfig(
            name=str(table),
            num_embeddings=rows,
            embedding_dim=question["dim"],
            feature_names=[feature["name"] for feature in question["features"] if feature["table"] == table],
            pooling=PoolingType.SUM,
        )
        for table, rows in enumerate(question["tables"])
    ]
    embeddings = EmbeddingBagCollection(tables=tables, device=torch.device("meta"))
    options = {"lr": question["learning_rate"], "eps": question["epsilon"]}
    apply_optimizer_in_backward(RowWiseAdagrad, embeddings.parameters(), options)
    return embeddings


def _distributed(model: Model, question: dict[str, Any]) -> tuple[DistributedModelParallel, Any]:
    """The model over the workers, and the plan, which is TorchRec's planner's own for CPUs."""
    ranks = question["ranks"]
    pooling = {
        str(table): ParameterConstraints(
            pooling_factors=[
                float(feature["bag"] or 1) for feature in question["features"] if feature["table"] == table
            ]
        )
        for table in range(len(question["tables"]))
    }
    topology = Topology(world_size=ranks, compute_device="cpu", local_world_size=ranks)
    planner = EmbeddingShardingPlanner(topology=topology, batch_size=question["batch"], constraints=pooling)
    sharders = [EmbeddingBagCollectionSharder()]
    plan = planner.collective_plan(model, sharders, torch.distributed.group.WORLD)
    return DistributedModelParallel(model, device=_CPU, plan=plan, sharders=sharders), plan


def _fill(model: DistributedModelParallel, rows: torch.Tensor, initial_accumulator: float) -> None:
    """Gives each table `rows` [n, dim] over and over, and its optimizer's state its first value."""
    with torch.no_grad():
        for value in model.state_dict().values():
            for shard in value.local_shards() if hasattr(value, "local_shards") else ():
                start, column = shard.metadata.shard_offsets
                wanted = rows.roll(-(start % len(rows)), 0)[:, column : column + shard.tensor.shape[1]]
                for part in shard.tensor.split(len(rows)):
                    part.copy_(wanted[: len(part)])
        for state in model.fused_optimizer.state_dict()["state"].values():
            for slot in state.values():
                for part in _local(slot):
                    part.fill_(initial_accumulator)


def _local(value: Any) -> list[torch.Tensor]:
    """What this worker holds of it."""
    return [shard.tensor for shard in value.local_shards()] if hasattr(value, "local_shards") else [value]


def _batches(batches: Any, features: list[dict[str, Any]], part: slice) -> list[tuple[Any, torch.Tensor, torch.Tensor]]:
    """(ids, dense, labels) of each batch, of those examples alone."""
    dense, labels = batches["dense"][:, part], batches["labels"][:, part]
    ids, lengths = [], []
    for feature in features:
        of_feature = batches[f"{feature['name']}/ids"]
        if feature["bag"] is None:
            ids.append(of_feature[:, part])
            lengths.append(np.ones(dense.shape[1], np.int64))
        else:
            every = batches[f"{feature['name']}/lengths"]
            splits = np.concatenate([[0], np.cumsum(every)])
            ids.append(of_feature[:, splits[part.start] : splits[part.stop]])
            lengths.append(every[part])
    names, counts = [feature["name"] for feature in features], torch.from_numpy(np.concatenate(lengths))
    return [
        (
            KeyedJaggedTensor(names, torch.from_numpy(np.concatenate([own[k] for own in ids])), lengths=counts),
            torch.from_numpy(np.ascontiguousarray(dense[k])),
            torch.from_numpy(np.ascontiguousarray(labels[k])),
        )
        for k in range(len(dense))
    ]


def _compiled_is_faster(dlrm: DLRM, question: dict[str, Any]) -> bool:
    """Whether torch.compile makes the dense part, forward and backward, faster; the first worker's word counts."""
    examples = question["batch"]
    dense = torch.zeros(examples, dlrm.bottom[0].in_features)
    vectors = torch.zeros(examples, len(question["features"]) * question["dim"], requires_grad=True)
    ways = {False: dlrm, True: torch.compile(dlrm)}
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(1 + _TRIALS):
        for compiled, way in ways.items():
            start = time.perf_counter()
            way(dense, vectors).sum().backward()
            seconds[compiled].append(time.perf_counter() - start)
    dlrm.zero_grad()
    faster = statistics.median(seconds[True][1:]) < statistics.median(seconds[False][1:])
    words = [faster]
    torch.distributed.broadcast_object_list(words)
    return bool(words[0])


def _join(question: dict[str, Any]) -> None:
    rank, ranks = question["rank"], question["ranks"]
    where = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": ranks}
    os.environ.update({name: str(value) for name, value in where.items()})
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=Path(question["rendezvous"]).as_uri(), rank=rank, world_size=ranks
    )


def main() -> None:
    logging.disable(logging.WARNING)
    worker: Worker | None = None
    for line in sys.stdin:
        question = json.loads(line)
        answer: dict[str, Any] = {}
        if "model" in question:
            _join(question)
            worker = Worker(question)
            answer = {"sharding": dict(worker.sharding), "compiled": worker.compiled}
        elif "train" in question:
            assert worker
            answer = worker.train(question["train"], question["share"])
        elif "vectors" in question:
            assert worker
            np.save(question["file"], worker.vectors(question["vectors"]))
        else:
            answer = {package: version(package) for package in ("torch", "torchrec", "fbgemm-gpu-cpu")}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
