"""Readers of users' files and tables, shared by all parts of Tokenlake (docs/lake.md, *Reading*).

The entry point is `source.open_source`; `handles.steady` starts a read again where its files change meanwhile.
"""
