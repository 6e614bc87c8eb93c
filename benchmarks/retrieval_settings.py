"""Our models in the `retrieval` benchmark: settings by dotted key, as `headrace run --set` takes them."""

from __future__ import annotations

from evaluation.tuning import Choices, Settings
from inputs.features import FeatureSpace
from inputs.schema import USER

# What all of them have: small logs want small batches.
TWO_TOWER: Settings = {
    "retrieval.batch_size": 512,
    "retrieval.dropout": 0.3,
    "retrieval.epochs": 8,
    "retrieval.patience": 2,
}
# How they learn: settings that go together, by a name. Dense logs learn as a factorisation does; sparse ones, whose
# trends say more than their ids, learn slowly.
LEARNING = "learning"
WAYS_OF_LEARNING: dict[str, Settings] = {
    "linear": {
        "retrieval.units": [],
        "retrieval.embedding_dim": 64,
        "retrieval.embedding_optimizer": "Adam",
        "retrieval.embedding_learning_rate": 0.003,
        "retrieval.learning_rate": 0.003,
        "retrieval.id_dropout": 0.3,
    },
    "hidden layer": {
        "retrieval.units": [128],
        "retrieval.embedding_dim": 32,
        "retrieval.embedding_optimizer": "RowWiseAdagrad",
        "retrieval.embedding_learning_rate": 0.05,
        "retrieval.learning_rate": 0.001,
        "retrieval.id_dropout": 0.6,
    },
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
    "encoder: attention": {"retrieval.encoder": "attention", "retrieval.attention.length": 10},
    "encoder: multi_interest": {"retrieval.encoder": "multi_interest"},
}
# SASRec as its paper has it: nothing but the sequence of items, one table for both sides, two blocks.
SASREC: Settings = {
    "inputs.history_length": 20,  # whose cost is most of the training's
    "retrieval.encoder": "attention",
    "retrieval.attention.length": 20,
    "retrieval.attention.dropout": 0.3,
    "retrieval.tower": "identity",
    "retrieval.query_features": ["history_item_id"],
    "retrieval.item_features": ["item_id"],
    "retrieval.embedding_dim": 50,
    "retrieval.dim": 50,
    "retrieval.embedding_optimizer": "Adam",
    "retrieval.embedding_learning_rate": 0.003,
    "retrieval.learning_rate": 0.003,
    "retrieval.loss": "full_softmax",
    "retrieval.id_dropout": 0.0,
    "retrieval.dropout": 0.0,
    "retrieval.batch_size": 512,
    "retrieval.epochs": 10,
    "retrieval.patience": 3,
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
    """What is tuned of a two-tower model, the first of each choice the default. The query tower does not see who asks:
    most users of a test period are new, and the id of one who is says nothing."""
    return {
        LEARNING: tuple(WAYS_OF_LEARNING),
        "inputs.history_length": (10, 5),
        "retrieval.query_features": ([name for name in space.query_features if name != USER],),
    }


def spelled_out(settings: Settings) -> Settings:
    """With the way of learning as the settings that it stands for."""
    rest = {name: value for name, value in settings.items() if name != LEARNING}
    return {**WAYS_OF_LEARNING.get(settings.get(LEARNING, ""), {}), **rest}
