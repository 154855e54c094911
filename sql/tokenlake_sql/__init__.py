"""SQL over a lake: views, table macros and saved queries, each as a `.sql` file.

Nothing here opens a file or knows a lake: `install` runs over a connection that has the lake's tables as views.
"""

from tokenlake_sql.loader import Parameter, Query, install, queries

__all__ = ["Parameter", "Query", "install", "queries"]
