"""A job, its run directory, and what its stages share: opened once, when first asked for."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix

from evaluation.harness import Catalogue
from evaluation.protocol import Queries, queries_at_cutoff, queries_rolling
from foundation.errors import UserError
from foundation.progress import say
from inputs.dataset import Dataset
from inputs.features import FeatureSpace
from inputs.histories import Histories
from inputs.interactions import Interactions
from inputs.lists import PeriodLists
from inputs.splits import Split
from retrieval.objectives import labels_of
from trainer.job import Job
from trainer.run_directory import RunDirectory
from trainer.supervisor.member import Membership

if TYPE_CHECKING:
    from embeddings import Wire
    from embeddings.sharding import ShardingPlan
    from ranking.ranker import Ranker
    from retrieval.two_tower import TwoTower
    from trainer.world import World


JOINED_FIRST = ("multi_worker", "horovod", "tpu")  # before anything is written: others wait, or it cannot be had


class Workspace:
    """What every stage needs. Everything but the models is numpy and Arrow."""

    def __init__(
        self, job: Job, run: RunDirectory, command: str, membership: Membership | None = None, alone: bool = False
    ) -> None:
        """alone: this process does it all, whatever strategy the job is trained under."""
        self.job, self.run, self.command, self._alone = job, run, command, alone
        self.membership = membership or Membership(rank=0, world_size=1)

    def need(self, stage: str) -> None:
        """Refuses to go on without an earlier stage's result."""
        if self.run.made_from(stage) is None:
            raise UserError(
                f"{self.run.path}: the stage '{stage}' is not done yet.",
                f"Run it first: headrace run {self.command}, which does every stage that is missing.",
            )

    @cached_property
    def dataset(self) -> Dataset:
        self.need("data")
        return self.open_dataset()

    def open_dataset(self) -> Dataset:
        """The data stage's result as it lies on disk now."""
        return Dataset.open(self.run.facts("data")["elsewhere"] or self.run.dataset)

    @cached_property
    def split(self) -> Split:
        return self.split_of(self.dataset)

    def split_of(self, dataset: Dataset) -> Split:
        """The job's split of a log."""
        shares = self.job.inputs.split
        return Split.by_share(dataset, shares.validation, shares.test)

    @cached_property
    def _opened(self) -> tuple[FeatureSpace, Interactions]:
        self.need("data")
        space = FeatureSpace.load(self.run.space)
        labels = labels_of(self.job.retrieval.objectives, self.dataset.schema.labels)
        interactions = Interactions.from_dataset(self.dataset, space, self.job.inputs.positive, labels)
        space.follow(interactions)
        return space, interactions

    @property
    def space(self) -> FeatureSpace:
        return self._opened[0]

    @property
    def interactions(self) -> Interactions:
        """Every positive event of the log, in time order."""
        return self._opened[1]

    @cached_property
    def histories(self) -> Histories:
        return Histories(self.interactions)

    @cached_property
    def end(self) -> int:
        """The second after the log's last event: "now" for everything served from this run."""
        return int(self.dataset.time_range[1]) + 1

    def queries(self, start: int, stop: int, most: int) -> tuple[Queries, dict[str, int]]:
        """The period's queries under the job's protocol, at most so many, and what was counted out."""
        build = {"rolling": queries_rolling, "at_cutoff": queries_at_cutoff}[self.job.evaluation.protocol]
        length = self.job.inputs.history_length
        return build(self.interactions, self.histories, start, stop, length, most, self.job.seed)

    @cached_property
    def catalogue(self) -> Catalogue:
        """What the evaluation must know of the items."""
        categories = self.space.item_categories()
        matrix = None
        if categories is not None:
            width = int(categories.values.max(initial=0)) + 1
            ones = np.ones(len(categories.values), np.float32)
            matrix = csr_matrix((ones, categories.values, categories.row_splits), (len(self.space.items), width))
        return Catalogue(len(self.space.items), matrix, self.space.publication)

    def lists(self, start: int, stop: int) -> PeriodLists:
        """The lists that lie in a period."""
        return PeriodLists(self.dataset, self.space, start, stop)

    @property
    def several_processes(self) -> bool:
        """Whether the job is run by several, of which this is one."""
        spread = self.job.training.strategy in JOINED_FIRST and not self._alone
        return spread and self.world.several_processes

    @cached_property
    def world(self) -> World:
        """The ranks that run the job; this process has joined them once this is asked for."""
        from trainer.world import alone, join_world

        return alone() if self._alone else join_world(self.job, self.membership)

    @cached_property
    def world_of_lists(self) -> World:
        """The ranks that train on whole lists. They have no fixed shape: a TPU's host does it."""
        from trainer.world import alone

        if not self.world.strategy.fixed_shapes:
            return self.world
        say("ranking: lists have no fixed shape, which a TPU wants: trained by this machine's processor")
        return alone()

    def new_two_tower(self, steps: int = 1, world: World | None = None) -> TwoTower:
        """The untrained retrieval model of this job; steps: of the training it is to go through; world: the ranks that
        hold it together, None: this process alone."""
        from retrieval.two_tower import TwoTower

        _reproducible(self.job.seed)
        with _scope(world):
            return TwoTower(
                self.space.query_features,
                self.space.item_features,
                self.job.retrieval,
                self.job.seed,
                steps,
                world.communicator if world else None,
                self._plan("retrieval", world),
                self._wire(world),
                world is not None and self.job.training.incremental > 0,
            )

    def new_ranker(self, world: World | None = None) -> Ranker:
        """The untrained ranker of this job; world: see `new_two_tower`."""
        from ranking.ranker import Ranker

        _reproducible(self.job.seed)
        with _scope(world):
            return Ranker(
                self.space.query_features,
                self.space.item_features,
                self.space.context_features,
                self.job.ranking.resolved(self.space.schema.labels, self.space.label_means),
                self.job.seed,
                world.communicator if world else None,
                self._plan("ranking", world),
                self._wire(world),
                world is not None and self.job.training.incremental > 0,
            )

    def _wire(self, world: World | None) -> Wire | None:
        from embeddings import Wire

        training = self.job.training
        return Wire(training.wire, training.wire, training.error_feedback) if world else None

    def _plan(self, model: str, world: World | None) -> ShardingPlan | None:
        from trainer.sharding_plans import plan_for

        return plan_for(self.job.training.plan, model, world.size) if world and world.size > 1 else None

    @cached_property
    def two_tower(self) -> TwoTower:
        """The trained retrieval model."""
        from trainer.stages.retrieval import restore

        self.need("retrieval")
        return restore(self)

    @cached_property
    def ranker(self) -> Ranker:
        """The trained ranker."""
        from trainer.stages.ranking import restore

        self.need("ranking")
        return restore(self)


def _scope(world: World | None) -> AbstractContextManager[Any]:
    return world.strategy.scope() if world else nullcontext()


def _reproducible(seed: int) -> None:
    """The same job and seed give the same bits: Keras' own initial values, and ops in a fixed order."""
    from foundation.tf import keras, tf

    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
