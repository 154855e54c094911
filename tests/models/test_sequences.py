from __future__ import annotations

import dataclasses

import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.tables import random_table
from tokenlake_models.instances import History
from tokenlake_models.jagged import offsets_of
from tokenlake_models.sequences import Sequences

EVENTS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.booleans()), max_size=25)


def table(events):
    """Of (user, timestamp, whether later rows may read it)."""
    users, times, seen = (torch.tensor([e[i] for e in events], dtype=torch.int64) for i in range(3))
    return dataclasses.replace(random_table(len(events)), users=users, timestamps=times + 10, seen=seen.bool())


def past(lengths):
    offsets = offsets_of(torch.tensor(lengths))
    times = torch.cat([torch.arange(10 - n, 10) for n in lengths])
    return History(torch.zeros(len(times), 2), times, offsets)


@given(EVENTS, st.lists(st.integers(0, 4), min_size=3, max_size=3), st.integers(0, 6), st.integers(1, 9))
def test_every_row_once_after_what_came_before_it(events, lengths, history, size):
    rows, before = table(events), past(lengths)
    sequences = Sequences(rows, before, history)
    batches = [batch for wave in sequences.batches(size, torch.Generator().manual_seed(0)) for batch in wave]
    assert sorted(i for batch in batches for i in batch.tolist()) == list(range(len(sequences)))
    own = []
    done: set[tuple[int, int]] = set()
    for segment in (torch.tensor([i]) for batch in batches for i in batch.tolist()):
        window = sequences.window(segment)
        own += window.own.tolist()
        assert window.timestamps.tolist() == sorted(window.timestamps.tolist())
        (user,) = set(rows.users[window.own].tolist())
        first = rows.timestamps[window.own].min()
        ties = [(u, t) for u, t, _ in events]
        assert not {(user, int(t) - 10) for t in rows.timestamps[window.own]} & done
        done |= {(user, int(t) - 10) for t in rows.timestamps[window.own]}
        # Up to `history` tokens before the segment, the newest ones; a tie at the far end whole or not at all.
        earlier = sorted(i for i, (u, t, seen) in enumerate(events) if u == user and t + 10 < first and seen)
        newest = sorted(earlier, key=lambda i: (events[i][1], i))[::-1]
        context = window.context.tolist()
        assert context[::-1] == newest[: len(context)]
        if history:
            assert not {ties[i] for i in context} & {ties[i] for i in newest[len(context) :]}
        if len(context) > history:
            assert len({ties[i] for i in context}) == 1
            assert len(window.past) == 0
        elif len(context) < min(len(newest), history):
            cut = ties[newest[len(context)]]
            assert len(window.past) == 0
            assert context
            assert sum(ties[i] == cut for i in newest) > history - len(context)
        elif len(context) == len(newest):
            stored = lengths[user]
            end = int(before.offsets[user + 1])
            assert window.past.tolist() == list(range(end - min(stored, history - len(context)), end))
    assert sorted(own) == list(range(len(events)))


@given(EVENTS, st.integers(0, 4), st.integers(0, 6))
def test_segments_do_not_depend_on_the_future(events, now, history):
    def windows(some):
        sequences = Sequences(table(some), past([2, 0, 3]), history)
        every = (sequences.window(torch.tensor([i])) for i in range(len(sequences)))
        return [[[some[i] for i in w.own], [some[i] for i in w.context], w.past.tolist()] for w in every]

    whole = windows(events)
    for own, *rest in windows([e for e in events if e[1] <= now]):
        assert any(own == theirs[0][: len(own)] and rest == theirs[1:] for theirs in whole)


def test_a_batch_holds_about_its_size():
    events = [(user, t, True) for t in range(8) for user in range(3)]
    waves = Sequences(table(events), past([0, 0, 0]), 3).batches(8)
    assert [[len(batch) for batch in wave] for wave in waves] == [[2, 1], [2, 1]]
