import gc
import threading

import numpy as np
import torch

from tokenlake.storage import memory

SIZE = memory.LARGE
BYTES = np.dtype(np.uint8)


def place(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_memory_of_a_dropped_array_is_used_again_and_begins_on_a_line() -> None:
    memory._idle.clear()  # what other tests left: nobody but a test needs to know
    first = memory.empty((SIZE // 8, 8), BYTES)
    assert first.shape == (SIZE // 8, 8)
    where = place(first)
    assert where % 64 == 0
    del first
    again = memory.empty((SIZE // 2 + 100,), np.dtype(np.float16))
    assert place(again) == where
    assert place(memory.empty((SIZE,), BYTES)) != where


def test_memory_that_any_view_or_tensor_holds_is_left_alone() -> None:
    memory._idle.clear()
    whole = memory.empty((SIZE,), BYTES)
    whole[:] = 7
    row, tensor = whole[-100:].reshape(10, 10), torch.from_numpy(whole)[:50]
    del whole
    gc.collect()
    memory.empty((SIZE,), BYTES)[:] = 1
    assert (row == 7).all()
    del row
    memory.empty((SIZE,), BYTES)[:] = 1
    assert (tensor == 7).all()


def test_no_more_than_the_bound_lies_idle() -> None:
    memory._idle.clear()
    arrays = [memory.empty((memory.IDLE // 4,), BYTES) for _ in range(8)]
    del arrays
    assert 0 < sum(block.nbytes for block in memory._idle.values()) <= memory.IDLE
    memory._idle.clear()


def test_threads_never_share_a_block() -> None:
    wrong = []

    def work(number: int) -> None:
        for _ in range(50):
            array = memory.empty((SIZE,), BYTES)
            array[:: SIZE // 64] = number
            if not (array[:: SIZE // 64] == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
