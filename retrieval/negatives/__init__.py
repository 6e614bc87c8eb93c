"""Where a positive's negatives come from: the batch, draws from the catalogue, the batches before, the hardest."""
