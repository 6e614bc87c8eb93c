"""A simulated short-video platform: its logs, and apart from them the truth that real logs never show."""
