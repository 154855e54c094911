"""SQL views, macros and saved queries over a lake."""
