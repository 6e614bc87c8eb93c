"""Our models in the `retrieval` benchmark: settings by dotted key, as `headrace run --set` takes them."""

from __future__ import annotations

from evaluation.tuning import Choices, Settings

# What all of them have; small logs want small batches, and much held back against learning them by heart.
TWO_TOWER: Settings = {
    "retrieval.batch_size": 512,
    "retrieval.dropout": 0.3,
    "retrieval.id_dropout": 0.3,
    "retrieval.epochs": 12,
    "retrieval.patience": 2,
}
CHOICES: Choices = {
    "retrieval.encoder": ("bag", "gru", "attention"),
    "retrieval.loss": ("sampled_softmax", "full_softmax"),
    "inputs.history_length": (50, 10, 20),
    "retrieval.embedding_dim": (32, 64),
    "retrieval.id_dropout": (0.3, 0.1, 0.6),
    "retrieval.learning_rate": (0.001, 0.003),
}
# The ablation: the default model with one thing changed.
OPTIONS: dict[str, Settings] = {
    "without logQ": {"retrieval.log_q": "none"},
    "streaming logQ": {"retrieval.log_q": "streaming"},
    "mixed negatives": {"retrieval.negatives.uniform": 256, "retrieval.negatives.popular": 256},
    "cross-batch queue": {"retrieval.negatives.queue": 4},
    "hard negatives": {"retrieval.negatives.hard": 16},
    "full softmax": {"retrieval.loss": "full_softmax"},
    "encoder: gru": {"retrieval.encoder": "gru"},
    "encoder: attention": {"retrieval.encoder": "attention"},
    "encoder: multi_interest": {"retrieval.encoder": "multi_interest"},
}
# SASRec as its paper has it: nothing but the sequence of items, one table for both sides, two blocks.
SASREC: Settings = {
    "retrieval.encoder": "attention",
    "retrieval.tower": "identity",
    "retrieval.query_features": ["history_item_id"],
    "retrieval.item_features": ["item_id"],
    "retrieval.embedding_dim": 50,
    "retrieval.dim": 50,
    "retrieval.loss": "full_softmax",
    "retrieval.id_dropout": 0.0,
    "retrieval.dropout": 0.0,
    "retrieval.batch_size": 512,
    "retrieval.epochs": 12,
    "retrieval.patience": 2,
}
# For sizes at which nothing is learned.
QUICK: Settings = {
    "retrieval.batch_size": 64,
    "retrieval.epochs": 1,
    "retrieval.units": [8],
    "retrieval.embedding_dim": 8,
    "retrieval.dim": 8,
    "inputs.history_length": 5,
}
