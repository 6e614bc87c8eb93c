"""Floor 3: from the best-valued candidates to a slate: diversity, freshness, rules. Numpy only."""
