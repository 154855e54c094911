"""Similar users, the graph of them, and candidates."""
