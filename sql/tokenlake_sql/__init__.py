"""SQL over a lake: views, table macros and saved queries, each as a `.sql` file.

Nothing here opens a file of a lake or a database: it gives texts.
"""

from tokenlake_sql.loader import Definition, Filling, Parameter, Query, definitions, filled, parse, queries

__all__ = ["Definition", "Filling", "Parameter", "Query", "definitions", "filled", "parse", "queries"]
