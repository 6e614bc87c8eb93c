"""What a rank is told by its environment."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence

RANK = "HEADRACE_RANK"
WORLD_SIZE = "HEADRACE_WORLD_SIZE"
LOCAL_RANK = "HEADRACE_LOCAL_RANK"
RENDEZVOUS = "HEADRACE_RENDEZVOUS"
TOKEN = "HEADRACE_TOKEN"


def tf_config(rank: int, addresses: Sequence[str]) -> str:
    """TF_CONFIG of a rank: every rank's "HOST:PORT", and which is its own."""
    return json.dumps({"cluster": {"worker": list(addresses)}, "task": {"type": "worker", "index": rank}})


def rank_environment(
    rank: int, addresses: Sequence[str], rendezvous: str, token: str, extra: Mapping[str, str]
) -> dict[str, str]:
    """This process's environment with what is `rank`'s own: its place among the ranks, the supervisor's "HOST:PORT" and
    token, and TF_CONFIG with every rank's address."""
    return {
        **os.environ,
        "PYTHONUNBUFFERED": "1",  # what a rank wrote before it was killed is its last words
        **extra,
        RANK: str(rank),
        WORLD_SIZE: str(len(addresses)),
        LOCAL_RANK: str(rank),  # one machine
        RENDEZVOUS: rendezvous,
        TOKEN: token,
        "TF_CONFIG": tf_config(rank, addresses),
    }
