"""The timestamp-keyed token store."""
