"""SQL over a lake: views, table macros and saved queries, each as a `.sql` file.

Nothing here opens a file of a lake or a database: it gives texts.
"""

from tokenlake_sql.counts import Aggregation, Answer, Fact, Passes, aggregations
from tokenlake_sql.loader import Definition, Filling, Parameter, Query, definitions, filled, parse, queries

__all__ = [
    "Aggregation",
    "Answer",
    "Definition",
    "Fact",
    "Filling",
    "Parameter",
    "Passes",
    "Query",
    "aggregations",
    "definitions",
    "filled",
    "parse",
    "queries",
]
