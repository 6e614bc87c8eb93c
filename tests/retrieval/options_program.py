"""One rank's training under each option of the loss: run as a process a rank, it leaves losses and variables.

python options_program.py OUT LOG SCENARIO...     under TF_CONFIG, or alone, or of HEADRACE_DEVICES replicas
"""

import os
import sys
from pathlib import Path

import numpy as np

from foundation.tensors import to_tensors
from foundation.tf import keras, tf
from inputs.batches import retrieval_batches
from retrieval.config import RetrievalConfig
from retrieval.two_tower import TwoTower
from strategies import MirroredStrategy, create_strategy
from strategies.mirrored import DEVICES
from tests.retrieval.conftest import small_log
from trainer.feed import feed
from trainer.steps import steps_of
from trainer.supervisor.member import Membership
from trainer.world import World

STEPS, ROWS = 9, 50
SCENARIOS = {
    "in_batch": {},
    "streaming": {"log_q": "streaming", "frequency": {"buckets": 64}},
    "mixed": {"negatives": {"uniform": 21, "popular": 12}, "log_q_of": "negatives"},
    "queue": {"negatives": {"queue": 2, "queue_after": 2}},
    "hard": {"negatives": {"hard": 3, "uniform": 8}},
    "full_softmax": {"loss": "full_softmax", "normalise": True, "learn_temperature": True},
    "everything": {
        "log_q": "streaming",
        "frequency": {"buckets": 64},
        "negatives": {"uniform": 9, "popular": 9, "queue": 1, "queue_after": 1, "hard": 2},
        "normalise": True,
        "learn_temperature": True,
    },
}


def main() -> None:
    out, log = Path(sys.argv[1]), Path(sys.argv[2])
    tf.config.threading.set_intra_op_parallelism_threads(1)
    joined = "multi_worker" if "TF_CONFIG" in os.environ else "single"
    strategy = create_strategy("mirrored" if DEVICES in os.environ else joined)
    rank = 0 if isinstance(strategy, MirroredStrategy) else strategy.communicator.rank
    space = small_log(log / str(rank))
    for scenario in sys.argv[3:]:
        np.savez(out / f"{scenario}-{rank}.npz", **_train(strategy, space, SCENARIOS[scenario]))


def _train(strategy, log, options):
    config = RetrievalConfig(embedding_dim=8, units=(8,), dim=8, batch_size=ROWS, **options)
    batches = retrieval_batches(log.space, log.interactions, log.histories, 5, ROWS, seed=1, beside=config.beside)
    world = World(strategy, Membership(rank=0, world_size=1))
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = TwoTower(log.space.query_features, log.space.item_features, config, 1, STEPS, strategy.communicator)
        # Adam would turn the rounding of gradients that are 0, such as a bias that all candidates share, into steps
        optimizer = keras.optimizers.SGD(0.02)
        optimizer.build(model.trainable_variables)
    step = steps_of(model, optimizer, world)

    feeds = [feed(batches.iterate(0, 0, rank, world.size)) for rank in strategy.ranks]
    losses = [step(feeds, 3, first)["loss"] for first in range(0, STEPS, 3)]
    towers = [*model._item_tower.variables, *model._query_tower.variables]
    state = {f"{k} {each.name}": each.numpy() for k, each in enumerate([*model.retrieval_loss.variables, *towers])}
    with strategy.scope():
        vectors = strategy.run(model.embed_items, to_tensors(log.space.item_inputs(np.arange(40), log.end)))
    return {"losses": np.array(losses), "vectors": vectors.numpy(), **state}


if __name__ == "__main__":
    main()
