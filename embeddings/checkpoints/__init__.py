"""Tables on disk, by logical bucket."""

from embeddings.checkpoints.tables import (
    Base,
    Snapshot,
    restore_tables,
    save_tables,
    snapshot_tables,
    tell_failure,
    verify_tables,
    wait_for_ranks,
)
from embeddings.checkpoints.warm_start import WarmStarted, warm_start

__all__ = [
    "Base",
    "Snapshot",
    "WarmStarted",
    "restore_tables",
    "save_tables",
    "snapshot_tables",
    "tell_failure",
    "verify_tables",
    "wait_for_ranks",
    "warm_start",
]
