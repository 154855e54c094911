"""A Redis that keeps rows: its address, the connection, and what goes wrong with its certificates."""
