"""Tables on disk, by logical bucket."""

from embeddings.checkpoints.tables import restore_tables, save_tables, verify_tables
from embeddings.checkpoints.warm_start import WarmStarted, warm_start

__all__ = ["WarmStarted", "restore_tables", "save_tables", "verify_tables", "warm_start"]
