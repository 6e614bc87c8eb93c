"""What an answer may hold, and the search that keeps to it."""
