"""FBGEMM's CPU table-batched embedding (TorchRec's kernel), driven over JSON lines. Runs in the peers' environment.

Questions: {} -> versions; {"optimizer", "learning_rate", "vocabulary_size", "ids" (npy [batches, B, F] int64),
"gradient" (npy [B, F, dim])} -> {}: a table of zeros is made; {"batch": k} -> {"seconds"}: one step on batch k;
{"rows": k, "file": path} -> {}: the vectors [B, F, dim] of batch k are written as npy.
"""

from __future__ import annotations

from fbgemm_gpu.split_embedding_configs import EmbOptimType

_OPTIMIZERS = {
    "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
    "adagrad": EmbOptimType.EXACT_ADAGRAD,
    "sgd": EmbOptimType.EXACT_SGD,
}
