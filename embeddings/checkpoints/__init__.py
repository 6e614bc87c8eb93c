"""Tables on disk, by logical bucket."""

from embeddings.checkpoints.tables import (
    Base,
    Snapshot,
    restore_tables,
    save_tables,
    snapshot_tables,
    verify_tables,
    wait_for_ranks,
)

__all__ = ["Base", "Snapshot", "restore_tables", "save_tables", "snapshot_tables", "verify_tables", "wait_for_ranks"]
