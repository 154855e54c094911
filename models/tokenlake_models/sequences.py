"""Users' events in order of time, split into the segments of user-order training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from tokenlake_models.instances import History, Instances
from tokenlake_models.jagged import offsets_of, ranges


@dataclass(frozen=True, slots=True)
class SitBatch:
    """Several segments: the input of SIT in one step.

    Attributes:
        past: `(p,)` indices of stored tokens, in `History`.
        context: `(c,)` earlier rows of the table that may be read; they are not trained on.
        own: `(m,)` rows of the table in the segments.
        merge: `(p + c + m,)` the order that turns `[past, context, own]` into one sequence per segment, oldest first.
        offsets: `(segments + 1,)` the sequences in that order.
        timestamps: `(p + c + m,)` in that order, microseconds.
        is_own: `(p + c + m,)` in that order.
        seen: `(p + c + m,)` in that order, whether later rows may read the row.
    """

    past: Int64[Tensor, " p"]
    context: Int64[Tensor, " c"]
    own: Int64[Tensor, " m"]
    merge: Int64[Tensor, " total"]
    offsets: Int64[Tensor, " segments_1"]
    timestamps: Int64[Tensor, " total"]
    is_own: Bool[Tensor, " total"]
    seen: Bool[Tensor, " total"]


class Sequences:
    """The table's rows by user and time in segments, each with its earlier tokens.

    A segment holds at most about `history + 1` rows of one user and never splits a tie (rows of equal timestamps). Up to
    `history` earlier tokens precede it: rows of the same table, and before them stored tokens. A tie that would be split
    at the far end is left out; a tie longer than `history` right before the segment is read completely. So neither the
    order inside a tie nor later rows change a segment.
    """

    def __init__(self, instances: Instances, past: History, history: int) -> None:
        users, timestamps = instances.users, instances.timestamps
        by_time = torch.sort(timestamps, stable=True).indices
        self.order = by_time[torch.sort(users[by_time], stable=True).indices]
        self._timestamps = timestamps
        self._seen = instances.visible()
        self._past = past
        users, timestamps = users[self.order], timestamps[self.order]
        user_begin = _run_starts(users)
        tie_begin = torch.maximum(_run_starts(timestamps), user_begin)
        piece = (tie_begin - user_begin) // (history + 1)
        self.starts = torch.unique(torch.maximum(_run_starts(piece), user_begin))
        self.stops = torch.cat([self.starts[1:], self.starts.new_tensor([len(users)])])[: len(self.starts)]
        self.wave = piece[self.starts]
        # Only rows that later rows may read count as earlier tokens of a segment.
        readable = self._seen[self.order]
        self._readable = self.order[readable]
        number = offsets_of(readable.long())
        first, self._context_stops = number[user_begin[self.starts]], number[self.starts]
        begin = torch.maximum(self._context_stops - history, first)
        self._context_starts = _whole_ties(begin, self._context_stops, tie_begin[readable])
        owner = users[self.starts]
        length = self._context_stops - self._context_starts
        room = torch.where(self._context_starts == first, history - length, 0).clamp(min=0)
        self._past_stops = past.offsets[1:][owner]
        self._past_starts = torch.maximum(self._past_stops - room, past.offsets[:-1][owner])

    def __len__(self) -> int:
        """Number of segments."""
        return len(self.starts)

    def batches(self, size: int, generator: torch.Generator | None = None) -> list[list[Int64[Tensor, " _"]]]:
        """Segments in batches of about `size` rows: every user's first segment, then every user's second, and so on.

        Args:
            size: rows of a batch, without the earlier tokens of the segments.
            generator: shuffles users; without it the order is always the same.
        """
        mixed = torch.randperm(len(self), generator=generator) if generator else torch.arange(len(self))
        before = self._context_stops - self._context_starts + self._past_stops - self._past_starts
        length = self.stops - self.starts + before
        mixed = mixed[
            torch.sort(length[mixed], stable=True).indices
        ]  # similar lengths together, so that the threads finish at the same time
        mixed = mixed[torch.sort(self.wave[mixed], stable=True).indices]
        waves = torch.unique_consecutive(self.wave[mixed], return_counts=True)[1].tolist()
        return [self._cut(wave, size, generator) for wave in torch.split(mixed, waves)] if waves else []

    def _cut(self, wave: Tensor, size: int, generator: torch.Generator | None) -> list[Tensor]:
        rows = (self.stops - self.starts)[wave].cumsum(0)
        counts = torch.unique_consecutive((rows - 1) // size, return_counts=True)[1].tolist()
        batches = torch.split(wave, counts)
        turn = torch.randperm(len(batches), generator=generator).tolist() if generator else range(len(batches))
        return [batches[i] for i in turn]

    def window(self, segments: Int64[Tensor, " s"]) -> SitBatch:
        """SIT's input for some segments."""
        starts = torch.stack([self._past_starts, self._context_starts, self.starts])[:, segments]
        stops = torch.stack([self._past_stops, self._context_stops, self.stops])[:, segments]
        lengths = stops - starts
        past, context, own = (ranges(a, n) for a, n in zip(starts, lengths, strict=True))
        context, own = self._readable[context], self.order[own]
        blocks = offsets_of(lengths.flatten())[:-1].view_as(lengths)
        merge = ranges(blocks.T.flatten(), lengths.T.flatten())
        timestamps = torch.cat([self._past.timestamps[past], self._timestamps[context], self._timestamps[own]])
        seen = torch.cat([torch.ones(len(past) + len(context), dtype=torch.bool), self._seen[own]])
        return SitBatch(
            past=past,
            context=context,
            own=own,
            merge=merge,
            offsets=offsets_of(lengths.sum(0)),
            timestamps=timestamps[merge],
            is_own=merge >= len(past) + len(context),
            seen=seen[merge],
        )


def _run_starts(values: Tensor) -> Tensor:
    """For each position, the start of its run of equal values: `[7, 7, 8] -> [0, 0, 2]`."""
    places = torch.arange(len(values), device=values.device)
    changed = torch.ones_like(places, dtype=torch.bool)
    changed[1:] = values[1:] != values[:-1]
    return torch.where(changed, places, 0).cummax(0).values if len(values) else places


def _whole_ties(begin: Tensor, end: Tensor, tie_begin: Tensor) -> Tensor:
    """Move each `begin` that splits a tie to the tie's end, or to its start if nothing would be left before `end`."""
    places = torch.arange(len(tie_begin), device=begin.device)
    first = torch.cat([places[_run_starts(tie_begin) == places], begin.new_tensor([len(tie_begin)])])
    following = first[torch.searchsorted(first, begin)]
    start = first[(torch.searchsorted(first, begin, right=True) - 1).clamp(min=0)]
    return torch.where(begin == end, begin, torch.where(following < end, following, start))
