"""Answers of SQL as text and files: tables for people; CSV, JSON and Parquet for programs.

`values` tells how a value of each type is written. Importing this room is cheap: no pandas, and no rich.
"""

from tokenlake.formats.answer import Answer
from tokenlake.formats.layout import Layout
from tokenlake.formats.writing import FORMATS, write

__all__ = ["FORMATS", "Answer", "Layout", "write"]
