"""Floor 1: logs to batches."""
