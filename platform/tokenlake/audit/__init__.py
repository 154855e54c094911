"""Prove of a training set that nothing in it was known later than it could have been."""

from tokenlake.audit.columns import Columns
from tokenlake.audit.run import AuditReport, audit

__all__ = ["AuditReport", "Columns", "audit"]
