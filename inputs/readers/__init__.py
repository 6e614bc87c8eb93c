"""Logs as they come, read into the one dataset form."""

from inputs.readers.importing import import_log

__all__ = ["import_log"]
