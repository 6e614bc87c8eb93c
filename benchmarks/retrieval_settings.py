"""Our models in the `retrieval` benchmark: settings by dotted key, as `headrace run --set` takes them."""

from __future__ import annotations

from evaluation.tuning import Choices, Settings
from inputs.features import FeatureSpace
from inputs.schema import USER

# What all of them have. Small logs want small batches; in a linear tower there is nothing to drop.
TWO_TOWER: Settings = {
    "retrieval.batch_size": 512,
    "retrieval.dropout": 0.3,
    "retrieval.embedding_dim": 64,
    "retrieval.learning_rate": 0.003,
    "retrieval.epochs": 12,
    "retrieval.patience": 2,
}
# The ablation: the default model with one thing changed.
OPTIONS: dict[str, Settings] = {
    "without logQ": {"retrieval.log_q": "none"},
    "streaming logQ": {"retrieval.log_q": "streaming"},
    "mixed negatives": {"retrieval.negatives.uniform": 256, "retrieval.negatives.popular": 256},
    "cross-batch queue": {"retrieval.negatives.queue": 4, "retrieval.negatives.queue_after": 20},
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


def choices_for(space: FeatureSpace) -> Choices:
    """What is tuned of a two-tower model, the first of each choice the default.

    Whether the query tower sees who asks: most users of a test period are new, and an id that says nothing of them is
    then best left out.
    """
    others = [name for name in space.query_features if name != USER]
    return {
        "retrieval.units": ([], [128]),
        "retrieval.embedding_learning_rate": (0.4, 0.1),
        "retrieval.query_features": (others, None),
        "inputs.history_length": (10, 20, 50),
        "retrieval.negatives.uniform": (0, 512),
        "retrieval.id_dropout": (0.3, 0.6),
        "retrieval.encoder": ("bag", "gru", "attention"),
    }
