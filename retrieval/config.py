"""The `retrieval` and `index` parts of a job file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from foundation.config import Config
from foundation.precision import Precision
from inputs.sampling import Beside
from retrieval.encoders.config import AttentionConfig, EncoderName, GruConfig, MultiInterestConfig
from retrieval.negatives.config import FrequencyConfig, NegativesConfig
from retrieval.objectives import RetrievalObjective, refuse_repeated_objectives

OptimizerName = Literal["RowWiseAdagrad", "Adagrad", "Adam"]
TowerName = Literal["mlp", "identity"]
LossName = Literal["sampled_softmax", "full_softmax"]
LogQ = Literal["given", "streaming", "none"]

SHARPER = 0.05  # the temperature of cosines, whose range is narrow


class RetrievalConfig(Config):
    """The two-tower model and its training.

    embedding_dim: of every table. units: hidden layer sizes of each tower. dim: of query and candidate vectors, the
    last of which is spent on the candidate's bias. learning_rate: of the dense weights (Adam). embedding_learning_rate:
    of the tables; both fall to nothing along a cosine over the epochs. embedding_optimizer: of the tables; row-wise
    Adagrad keeps one number beside a row, Adagrad embedding_dim, (lazy) Adam twice as many: with it rare rows learn as
    fast as the others, at rates as small as the dense weights'. embedding_precision: how the tables' rows are stored;
    in 16 bits they are rounded stochastically. dropout: share of hidden units dropped in training. id_dropout: share of
    user and item ids hidden in training, so that what is unknown can be served from its features. batch_size: positives
    in a global batch, each the others' negatives. epochs: at most so many passes. patience: training stops after so
    many in a row without a better validation NDCG.

    encoder: what reads the watch history (`retrieval.encoders`); gru, attention, multi_interest: its options. tower:
    "mlp", or "identity": what the encoder gives is the query vector and an item's embedding the candidate vector, with
    no bias; their widths must be `dim`. query_features, item_features: the inputs that each side reads; None: all
    there are. objectives: what a positive is worth (`retrieval.objectives`); (): every one the same.

    loss: "sampled_softmax", against the batch and `negatives`, or "full_softmax", against the whole catalogue, for a
    small one. log_q: whence comes the probability that an item is sampled, by which logits are corrected: "given", its
    share of the positives of the batch's time; "streaming", estimated while training (`frequency`); "none": they are
    not. log_q_of: whose logits, "all" or the "negatives" alone (`retrieval.loss`). normalise: vectors have length 1,
    the bias beside it. temperature: what inner products are divided by in the loss; None: 1, or 0.05 of normalised
    vectors; learn_temperature: it only begins there.
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
    loss: LossName = "sampled_softmax"
    log_q: LogQ = "given"
    log_q_of: Literal["all", "negatives"] = "all"
    frequency: FrequencyConfig = FrequencyConfig()
    negatives: NegativesConfig = NegativesConfig()
    normalise: bool = False
    temperature: float | None = Field(None, gt=0)
    learn_temperature: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> RetrievalConfig:
        refuse_repeated_objectives(self.objectives)
        units = self.attention.units or self.embedding_dim
        if self.encoder == "attention" and units % self.attention.heads:
            raise ValueError(
                f"attention.heads: found {self.attention.heads} heads of {units} units; give a divisor of the units"
            )
        drawn = [name for name in ("uniform", "popular", "queue") if getattr(self.negatives, name)]
        if self.loss == "full_softmax" and drawn:
            raise ValueError(
                f"negatives.{drawn[0]}: found beside loss: full_softmax, whose negatives are the whole catalogue; "
                "leave it out"
            )
        return self

    @property
    def starting_temperature(self) -> float:
        """`temperature`, or its default."""
        return self.temperature or (SHARPER if self.normalise else 1.0)

    @property
    def remembers(self) -> tuple[str, ...]:
        """The options by which a step's loss depends on what the steps before were given."""
        streams = self.log_q == "streaming" and self.loss == "sampled_softmax"
        return ("log_q=streaming",) * streams + ("negatives.queue",) * (self.negatives.queue > 0)

    @property
    def beside(self) -> Beside:
        """What its batches hold beside their positives."""
        negatives = self.negatives
        return Beside(
            uniform=negatives.uniform,
            popular=negatives.popular,
            popularity_power=negatives.popularity_power,
            catalogue=self.loss == "full_softmax",
            known=negatives.hard > 0,
        )

    @property
    def longest_history(self) -> int | None:
        """Watched items that the encoder has positions for; None: any number."""
        by_place = {"attention": self.attention.length, "multi_interest": self.multi_interest.length}
        return by_place.get(self.encoder)


class IndexConfig(Config):
    """The nearest-neighbour index (ScaNN).

    brute_force_below: catalogues smaller than this are searched whole, with exact scores; "measured": whichever answers
    the held-out queries faster at the target recall. leaves: of the partitioning tree; by default about the square root
    of the number of vectors. leaves_to_search: by default so many that target_recall of the exact top 100 is found.
    anisotropic_threshold: T of Guo et al. (ICML 2020), as ScaNN takes it; null: plain quantisation. reorder: candidates
    scored again from their vectors after the quantised search; reorder_precision: how those vectors are held. soar:
    lambda of SOAR (Sun et al., NeurIPS 2023), which puts each vector into a second leaf; null: off. dims_per_block:
    dimensions that share a 4-bit code. training_sample: vectors that the tree is trained on. avq: how much more a
    leaf's error along its vectors weighs than that across them, for vectors whose norms differ; null: not at all.
    codes: of 4 bits to a vector, spent on what queries look at; null: on dims_per_block as they are; "measured":
    whichever of the two, with as many codes, finds more of a sample for the queries that are known, if any are.
    """

    brute_force_below: int | Literal["measured"] = Field(20_000)
    leaves: int | None = Field(None, ge=1)
    leaves_to_search: int | None = Field(None, ge=1)
    target_recall: float = Field(0.95, gt=0, le=1)
    anisotropic_threshold: float | None = Field(0.2, gt=0)
    reorder: int = Field(2_000, ge=1)
    reorder_precision: Literal["float32", "bfloat16", "int8"] = "float32"
    soar: float | None = Field(None, gt=0)
    dims_per_block: int = Field(2, ge=1)
    training_sample: int = Field(250_000, ge=1_000)
    avq: float | None = Field(None, gt=0)
    codes: Annotated[int, Field(ge=2)] | Literal["measured"] | None = "measured"

    @field_validator("brute_force_below")
    @classmethod
    def _not_negative(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 0:
            raise ValueError("must be 0 or more, or measured")
        return value
