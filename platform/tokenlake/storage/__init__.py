"""The ground that everything kept stands on: files and folders written whole or not at all, checksums, logs, locks.

Knows no store, table or lake; whatever writes a file that must outlive a crash does it through here.
"""
