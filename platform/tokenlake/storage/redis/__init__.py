"""A Redis that stores rows: its address, the connection, and errors of TLS certificates."""
