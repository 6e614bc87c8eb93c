"""Floor 3: multi-objective rankers: interactions, experts, objectives, and the TensorFlow Ranking gateway."""
