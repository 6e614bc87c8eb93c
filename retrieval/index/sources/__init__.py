"""Where vectors to index, and queries to try it with, come from."""
