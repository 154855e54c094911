"""The lake: schemas, Delta tables, ingest, DuckDB."""
