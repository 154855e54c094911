"""Prove of a training set that nothing in it was known later than it could have been."""

from tokenlake.audit.columns import ColumnRoles
from tokenlake.audit.run import AuditReport, audit

__all__ = ["AuditReport", "ColumnRoles", "audit"]
