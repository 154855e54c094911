"""One-dimensional grids of Triton programs.

CUDA lets a grid's first axis be 2^31 - 1 programs long, its second and third only 65,535: fewer than a batch has rows.
So every kernel here that runs over several counts (tiles, heads, rows) puts all of them on the first axis: the host
makes the grid with `programs`, the kernel finds its own place with `place`.
"""

from typing import no_type_check

import triton
import triton.language as tl

from ..errors import ShapeError

#: The longest first axis. Triton starts nothing at all, and says nothing, where a grid has more programs than this.
MOST_PROGRAMS = 2**31 - 1

#: The argument that is the longest row: it differs from batch to batch, and none needs a kernel compiled anew.
VARYING = ("most",)


def programs(*counts: int) -> tuple[int]:
    """The grid of a kernel that runs over all combinations of the counts, the first of them the fastest.

    Raises:
        ShapeError: more programs than one launch may have.
    """
    total = 1
    for count in counts:
        total *= count
    if total > MOST_PROGRAMS:
        raise ShapeError(
            f"the batch takes {' x '.join(map(str, counts))} = {total} programs on the GPU; "
            f"one launch may have {MOST_PROGRAMS}: split the batch, or keep its longest rows apart"
        )
    return (total,)


@triton.jit
@no_type_check
def place(inner, middle):
    """The three indices of a program of `programs(inner, middle, outer)`.

    The outer index (usually the row) has 64 bits, since its products may exceed 2^31.
    """
    program = tl.program_id(0)
    rest = program // inner
    return program % inner, rest % middle, tl.cast(rest // middle, tl.int64)
