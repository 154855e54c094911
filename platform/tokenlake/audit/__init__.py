"""Audit of a training set: checks that no row holds a value that became known after the row's time."""

from tokenlake.audit.columns import ColumnRoles
from tokenlake.audit.run import AuditReport, audit

__all__ = ["AuditReport", "ColumnRoles", "audit"]
