"""The `retrieval` and `index` parts of a job file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from foundation.config import Config
from foundation.precision import Precision
from retrieval.encoders.config import AttentionConfig, EncoderName, GruConfig, MultiInterestConfig
from retrieval.objectives import RetrievalObjective, refuse_repeated_objectives

OptimizerName = Literal["RowWiseAdagrad", "Adagrad"]
TowerName = Literal["mlp", "identity"]


class RetrievalConfig(Config):
    """The two-tower model and its training.

    embedding_dim: of every table. units: hidden layer sizes of each tower. dim: of query and candidate vectors, the
    last of which is spent on the candidate's bias. learning_rate: of the dense weights (Adam). embedding_learning_rate:
    of the tables; both fall to nothing along a cosine over the epochs. embedding_optimizer: of the tables; Adagrad
    keeps embedding_dim numbers beside a row where row-wise Adagrad keeps one. embedding_precision: how the tables' rows
    are stored; in 16 bits they are rounded stochastically. dropout: share of hidden units dropped in training.
    id_dropout: share of user and item ids hidden in training, so that what is unknown can be served from its features.
    batch_size: positives in a global batch, each the others' negatives. epochs: at most so many passes. patience:
    training stops after so many in a row without a better validation NDCG.

    encoder: what reads the watch history (`retrieval.encoders`); gru, attention, multi_interest: its options. tower:
    "mlp", or "identity": what the encoder gives is the query vector and an item's embedding the candidate vector, with
    no bias; their widths must be `dim`. query_features, item_features: the inputs that each side reads; None: all
    there are. objectives: what a positive is worth (`retrieval.objectives`); (): every one the same.
    """

    embedding_dim: int = Field(32, ge=1)
    units: tuple[int, ...] = (128,)
    dim: int = Field(64, ge=2)
    learning_rate: float = Field(0.001, gt=0)
    embedding_learning_rate: float = Field(0.05, gt=0)
    embedding_optimizer: OptimizerName = "RowWiseAdagrad"
    embedding_precision: Precision = "float32"
    dropout: float = Field(0.1, ge=0, lt=1)
    id_dropout: float = Field(0.1, ge=0, lt=1)
    batch_size: int = Field(1024, ge=2)
    epochs: int = Field(10, ge=1)
    patience: int = Field(2, ge=1)
    encoder: EncoderName = "bag"
    gru: GruConfig = GruConfig()
    attention: AttentionConfig = AttentionConfig()
    multi_interest: MultiInterestConfig = MultiInterestConfig()
    tower: TowerName = "mlp"
    query_features: tuple[str, ...] | None = Field(None, min_length=1)
    item_features: tuple[str, ...] | None = Field(None, min_length=1)
    objectives: tuple[RetrievalObjective, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> RetrievalConfig:
        refuse_repeated_objectives(self.objectives)
        units = self.attention.units or self.embedding_dim
        if self.encoder == "attention" and units % self.attention.heads:
            raise ValueError(
                f"attention.heads: found {self.attention.heads} heads of {units} units; give a divisor of the units"
            )
        return self

    @property
    def longest_history(self) -> int | None:
        """Watched items that the encoder has positions for; None: any number."""
        by_place = {"attention": self.attention.length, "multi_interest": self.multi_interest.length}
        return by_place.get(self.encoder)


class IndexConfig(Config):
    """The nearest-neighbour index (ScaNN).

    brute_force_below: catalogues smaller than this are searched whole, with exact scores. leaves: of the partitioning
    tree; by default about the square root of the catalogue's size. target_recall: leaves_to_search grows until so much
    of the exact top 100 is found. anisotropic_threshold: T of Guo et al. (ICML 2020), as ScaNN takes it. reorder:
    candidates scored exactly after the quantised search.
    """

    brute_force_below: int = Field(20_000, ge=0)
    leaves: int | None = Field(None, ge=1)
    target_recall: float = Field(0.95, gt=0, le=1)
    anisotropic_threshold: float = Field(0.2, gt=0)
    reorder: int = Field(2_000, ge=1)
