"""Every error that the kernels raise on purpose.

    KernelError
    ├── ShapeError      a tensor of the wrong rank or size (also a ValueError)
    ├── DtypeError      a tensor of the wrong type (also a TypeError)
    ├── DeviceError     tensors of one call on different devices (also a ValueError)
    ├── OffsetsError    offsets that do not start at 0, decrease or overrun (also a ValueError)
    └── ArgumentError   a number or flag out of its range (also a ValueError)

Each message names the argument and says what was given and what was expected; for offsets, also the first bad index.
"""


class KernelError(Exception):
    """Base of all errors that the kernels raise on purpose."""


class ShapeError(KernelError, ValueError):
    """A tensor of the wrong rank or size."""


class DtypeError(KernelError, TypeError):
    """A tensor of the wrong type."""


class DeviceError(KernelError, ValueError):
    """Tensors of one call that live on different devices."""


class OffsetsError(KernelError, ValueError):
    """Offsets that do not start at 0, decrease, overrun their values or exceed `max_len`."""


class ArgumentError(KernelError, ValueError):
    """A number or flag out of its range."""
