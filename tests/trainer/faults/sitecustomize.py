"""Faults in real processes, which take this file up by PYTHONPATH, by what the environment asks for:

FAULT_LOST_SLOT "SLOT:FILE": a rank on that slot of the machine ends before it is anything, while the file exists;
FAULT_AT_STEP "RANK:STEP:FILE": that rank is killed by SIGKILL once it has done that step, while the file exists;
FAULT_BATCH "EPOCH:K": that batch asks for a loss that is not finite.
"""

import os
import signal
import time
from pathlib import Path


def _asked(name):
    words = os.environ.get(f"FAULT_{name}", "").split(":")
    return words if words != [""] else None


if (asked := _asked("LOST_SLOT")) and os.environ.get("HEADRACE_LOCAL_RANK") == asked[0] and Path(asked[1]).exists():
    os._exit(9)

if (asked := _asked("AT_STEP")) and os.environ.get("HEADRACE_RANK") == asked[0]:
    from trainer.supervisor.member import Membership

    def _progress(self, step, then=Membership.progress, at=int(asked[1]), file=Path(asked[2])):
        then(self, step)
        if step == at and file.exists():
            time.sleep(3)  # the save before is committed meanwhile, whatever the machine is busy with
            os.kill(os.getpid(), signal.SIGKILL)

    Membership.progress = _progress

if asked := _asked("BATCH"):
    from inputs.batches import Batches

    _then, _at = Batches.batch, tuple(map(int, asked))

    def _batch(self, epoch, k, rank=0, world_size=1):
        made = _then(self, epoch, k, rank, world_size)
        if (epoch, k) == _at and "log_q" in made:
            made["log_q"] = made["log_q"] * float("nan")
        return made

    Batches.batch = _batch
