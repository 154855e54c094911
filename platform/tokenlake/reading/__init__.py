"""The reading room: files and tables as people have them, opened in one way for all who read (docs/lake.md, *Reading*).

The door is `source.open_source`; `handles.steady` begins anew where files are written meanwhile.
"""
