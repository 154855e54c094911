"""SQL over a lake: the fence, the views and their limits; `lake.database` puts them together."""
