"""Floor 4: the funnel in milliseconds, its HTTP service, the exported bundle."""
