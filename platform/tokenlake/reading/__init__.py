"""The reading room: files and tables as people have them, opened in one way for all who read (docs/lake.md, *Reading*)."""

from tokenlake.reading.handles import steady
from tokenlake.reading.source import Source, open_source

__all__ = ["Source", "open_source", "steady"]
