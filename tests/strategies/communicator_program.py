"""What each rank of a group runs: `communicator_program.py KIND FOLDER` does every case once and writes what it got to
FOLDER/rank-R.npz. KIND: "collectives" or "shared_memory", under TF_CONFIG, or "horovod", under horovodrun."""

import faulthandler
import sys
from pathlib import Path

import numpy as np

from foundation.tf import tf
from strategies import create_strategy
from tests.strategies.communicator_cases import MORE_PROMISES, PROMISES

CLASSES = {
    "collectives": "CollectiveCommunicator",
    "shared_memory": "SharedMemoryCommunicator",
    "horovod": "HorovodCommunicator",
}


def main() -> None:
    kind, folder = sys.argv[1], Path(sys.argv[2])
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    strategy = create_strategy("horovod" if kind == "horovod" else "multi_worker")
    communicator = strategy.communicator
    assert type(communicator).__name__ == CLASSES[kind]
    found = {"topology": np.array([strategy.topology.ranks, strategy.topology.ranks_per_host, strategy.is_chief])}
    for case in PROMISES if kind == "collectives" else (*PROMISES, *MORE_PROMISES):
        results = {f"{case.__name__}/{name}": np.asarray(value) for name, value in case(communicator).items()}
        found |= results
    strategy.barrier()
    np.savez(folder / f"rank-{communicator.rank}.npz", **found)


if __name__ == "__main__":
    faulthandler.dump_traceback_later(150, exit=True)  # where a rank hangs is then in what is printed
    main()
