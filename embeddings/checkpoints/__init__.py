"""Tables on disk, by logical bucket."""

from embeddings.checkpoints.tables import restore_tables, save_tables, verify_tables

__all__ = ["restore_tables", "save_tables", "verify_tables"]
