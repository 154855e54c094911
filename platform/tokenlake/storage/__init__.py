"""Crash-safe storage: atomic and durable writes of files and folders, checksums, append-only logs, locks.

Independent of stores, tables and lakes; every file that must survive a crash is written through this package.
"""
