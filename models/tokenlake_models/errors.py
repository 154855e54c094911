"""What can go wrong in this room.

ValueError
└── ModelError
    ├── InstancesError    the tensors given don't fit the model
    ├── CheckpointError   a folder is no checkpoint, or one of another model
    └── DivergedError     training met a loss that is no number
"""

from __future__ import annotations


class ModelError(ValueError):
    """Base of every error that this package raises on purpose."""


class InstancesError(ModelError):
    """The instances or the history given don't fit the model."""


class CheckpointError(ModelError):
    """A folder is no checkpoint, is damaged, or belongs to another model."""


class DivergedError(ModelError):
    """A training step's loss is NaN or infinite."""
