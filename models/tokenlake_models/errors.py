"""Every error that this package raises on purpose.

ValueError
└── ModelError
    ├── InstancesError    tensors that do not fit the model
    ├── CheckpointError   a folder that is not a checkpoint, or one of another model
    └── DivergedError     a training loss that is NaN or infinite
"""

from __future__ import annotations


class ModelError(ValueError):
    """Base of every error that this package raises on purpose."""


class InstancesError(ModelError):
    """Instances or a history that do not fit the model."""


class CheckpointError(ModelError):
    """A folder that is not a checkpoint, is damaged, or belongs to another model."""


class DivergedError(ModelError):
    """A training step's loss is NaN or infinite."""
