"""Floor 3: the two-tower model, sampled softmax, the index over candidate vectors."""
