"""Public data sets and a simulator, as event logs."""
