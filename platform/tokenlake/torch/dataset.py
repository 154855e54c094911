"""`SequenceDataset`: labelled rows joined with their users' tokens while they are read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
import torch.distributed
import torch.utils.data
import xxhash

from tokenlake.audit.written import PREFIX, with_description, with_sequences
from tokenlake.errors import SchemaError, VersionError, storage_error
from tokenlake.reading.times import check_instants, known_at
from tokenlake.storage import atomic
from tokenlake.times import as_micros
from tokenlake.tokens.batch import TokenBatch
from tokenlake.tokens.inputs import as_instants, check_length
from tokenlake.tokens.store import Available, TokenStore
from tokenlake.torch.batch import SequenceBatch
from tokenlake.torch.loader import SequenceLoader
from tokenlake.torch.order import Order
from tokenlake.torch.rows import SharedRows, check_columns, read_rows, tensors

#: Rows that `write` holds in memory with their tokens.
_WRITTEN_ROWS = 4096


class SequenceDataset(torch.utils.data.IterableDataset[SequenceBatch]):
    """Rows with the last tokens of each row's user strictly before the row's time, in batches.

    Tokens are fetched when a batch is made, from memory pages that all processes of a machine share. An iteration
    covers the rest of the epoch at the dataset's position; after it the next epoch begins.

    >>> dataset = SequenceDataset(lake.sql("from events"), lake.tokens(), batch_size=4096)  # doctest: +SKIP
    >>> for batch in dataset.loader(workers=2): ...  # doctest: +SKIP
    """

    def __init__(
        self,
        rows: Any,
        store: TokenStore | str | os.PathLike[str],
        *,
        user: str = "user_id",
        before: str = "timestamp",
        columns: Sequence[str] | None = None,
        targets: Mapping[str, str] | None = None,
        as_of: object = None,
        length: int = 256,
        available: Available = "realtime",
        batch_size: int = 1024,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        rank: int | None = None,
        ranks: int | None = None,
        reuse_buffers: bool = False,
    ) -> None:
        """Read the rows, and open the newest snapshot of the store.

        Args:
            rows: a path, folder or glob of Parquet, CSV, TSV or Delta, an Arrow table, a frame of pandas or Polars, or
                what `lake.sql(...)` returns (docs/lake.md, *Reading*).
            store: a `TokenStore`, or its folder.
            user: column of the user ids; before: column of the rows' times.
            columns: other columns of the batches; None: all.
            targets: label -> column of the time at which it becomes known. A target not known before `as_of` is null.
            as_of: the instant of training; needed for targets.
            length: most tokens of a row.
            available: `realtime` or `daily`, as in `TokenStore.fetch`: the tokens that the server will have.
            batch_size: rows of a batch.
            shuffle: a new order each epoch, by `seed`.
            drop_last: leave out the last batches, so that all ranks have the same number of full batches.
            rank: number of this process; ranks: number of processes. Defaults to `torch.distributed`'s.
            reuse_buffers: without workers, a batch's tokens overwrite those of the batch before.

        Raises:
            SchemaError: a column is missing, has nulls or an unsupported type, or an argument is out of range.
            SourceError: a file cannot be read.
            NotFoundError: there is no store.
        """
        if batch_size < 1:
            raise SchemaError(f"batch_size={batch_size}; expected at least 1")
        if seed < 0:
            raise SchemaError(f"seed={seed}; expected 0 or more")
        if available not in ("realtime", "daily"):
            raise SchemaError(f"available={available!r}; expected 'realtime' or 'daily'")
        self.store = store if isinstance(store, TokenStore) else TokenStore.open(store)
        self.user, self.before = user, before
        self.length, self.available = check_length(length), available
        self.rank, self.ranks = _share(rank, ranks)
        targets = dict(targets or {})
        needed = None if columns is None else [user, before, *columns, *targets, *targets.values()]
        table = _checked(read_rows(rows, needed), user, before)
        self._targets, self._as_of = targets, _moment(targets, as_of)
        self._rows = SharedRows(_mature(table, targets, self._as_of))
        self._order = Order(table.num_rows, batch_size, seed if shuffle else None, drop_last)
        self._identity = self._identify(batch_size)
        self._reuse = reuse_buffers
        self.epoch = 0
        self._start = 0
        # Read by workers at the start of an iteration.
        self._shared = torch.zeros(2, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]  # torch's

    @property
    def table(self) -> pa.Table:
        """The rows; targets that are not known yet are null."""
        return self._rows.table

    @property
    def batches(self) -> int:
        """Number of batches of a whole epoch for this rank."""
        return len(range(self.rank, self._order.stop(0, self.ranks), self.ranks))

    def __iter__(self) -> Iterator[SequenceBatch]:
        worker = torch.utils.data.get_worker_info()
        if worker is not None:
            yield from self._of_worker(worker.id, worker.num_workers)
            return
        out = TokenBatch.empty(self.store.schema) if self._reuse else None
        for index in self._indices(self._start):
            batch = self._batch(self.epoch, index, out)
            self.seek(batch.state)
            yield batch
        self.set_epoch(self.epoch + 1)

    def loader(self, workers: int = 0, **options: Any) -> SequenceLoader:
        """Batches read ahead by worker processes, in the same order; `options` go to `torch.utils.data.DataLoader`.

        Args:
            workers: processes; 0: batches are read in this one.
            **options: of `torch.utils.data.DataLoader`.

        Returns:
            The loader.
        """
        return SequenceLoader(self, workers, **options)

    def rows_of(self, index: int, epoch: int) -> pa.Table:
        """The rows of a batch, by the batch's number in the epoch.

        Args:
            index: number of the batch in the epoch, over all ranks.
            epoch: that it belongs to.

        Returns:
            Rows of `table`, in the batch's order.
        """
        return self.table.take(pa.array(self._order.take(index, epoch)))

    def fetch(self, rows: pa.Table, out: TokenBatch | None = None) -> TokenBatch:
        """The tokens of rows of this dataset.

        Args:
            rows: with the dataset's columns of users and times.
            out: a batch whose buffers are used again.

        Returns:
            The last `length` tokens of each row's user strictly before the row's time, oldest first.
        """
        return self.store.fetch(
            rows[self.user], before=rows[self.before], length=self.length, available=self.available, out=out
        )

    def write(self, path: str | os.PathLike[str], *, prefix: str = PREFIX) -> int:
        """Write the rows in order with their sequences, as a Parquet file for `tokenlake audit`.

        Args:
            path: the file; written atomically.
            prefix: of the columns' names: `tokens` (n * dim floats), `timestamps` (n microseconds), and for each side
                column a list of n; for each label also `<label>_known`.

        Returns:
            Number of rows written.

        Raises:
            SchemaError: the rows already have such a column.
            StorageError: the disk is full or not writable.
        """
        try:
            with atomic.file(Path(path)) as part, ExitStack() as stack:
                writer = None
                for start in range(0, max(1, self.table.num_rows), _WRITTEN_ROWS):
                    rows = self.table.slice(start, _WRITTEN_ROWS)
                    table = with_sequences(rows, self.fetch(rows), prefix)
                    schema = with_description(table.schema, self._describe(prefix))
                    if writer is None:
                        writer = stack.enter_context(pq.ParquetWriter(part, schema))
                    writer.write_table(table.cast(schema))
        except OSError as error:
            raise storage_error(error) from error
        return int(self.table.num_rows)

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch with the next pass.

        Args:
            epoch: its number; the order of the rows depends on it.
        """
        self.epoch, self._start = epoch, 0
        self.share_position()

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch, as JSON values; the same on all ranks after the same number of steps."""
        return self._state(self.epoch, self._start)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at a saved position; the number of ranks and workers may differ.

        Args:
            state: what `state_dict`, or a batch's `state`, told.

        Raises:
            VersionError: the state is of other rows, or of another seed, batch size, length or availability.
        """
        if differing := [name for name, value in self._identity.items() if state.get(name) != value]:
            told = ", ".join(f"{name} {state.get(name)!r}, here {self._identity[name]!r}" for name in differing)
            raise VersionError(f"this state is of another dataset ({told}); make it with the same rows and arguments")
        self.seek(state)
        self.share_position()

    def seek(self, state: Mapping[str, Any]) -> None:
        """Move this process's position.

        Args:
            state: what `state_dict` told; it isn't checked.
        """
        self.epoch, self._start = int(state["epoch"]), int(state["next"])

    def share_position(self) -> None:
        """Make workers start at this process's position."""
        self._shared[0], self._shared[1] = self.epoch, self._start

    def _of_worker(self, number: int, workers: int) -> Iterator[SequenceBatch]:
        # The loader reads its workers in turn, so batch k comes from worker k % workers, in the order of a single process.
        epoch, start = self._shared.tolist()
        for index in self._indices(start)[number::workers]:
            yield self._batch(epoch, index, None)

    def _indices(self, start: int) -> range:
        return range(start + self.rank, self._order.stop(start, self.ranks), self.ranks)

    def _batch(self, epoch: int, index: int, out: TokenBatch | None) -> SequenceBatch:
        rows = self.rows_of(index, epoch)
        tokens = self.fetch(rows, out).torch()
        columns, valid = tensors(rows)
        return SequenceBatch(
            values=tokens.values,
            offsets=tokens.offsets,
            timestamps=tokens.timestamps,
            side=tokens.side,
            known=tokens.known,
            before=torch.from_numpy(np.array(as_micros(rows[self.before], self.before))),
            columns=columns,
            valid=valid,
            scales=tokens.scales,
            epoch=epoch,
            index=index,
            state=self._state(epoch, index - self.rank + self.ranks),
        )

    def _describe(self, prefix: str) -> dict[str, Any]:
        """The description for the file's metadata; `version` is the store's folder name, which in a lake is the version."""
        return {
            "user": self.user,
            "before": self.before,
            "prefix": prefix,
            "length": self.length,
            "available": self.available,
            "targets": self._targets,
            "as_of": self._as_of,
            "version": self.store.path.name,
            "generation": self.store.generation,
            "dim": self.store.schema.dim,
        }

    def _state(self, epoch: int, following: int) -> dict[str, Any]:
        return {"epoch": epoch, "next": following, **self._identity}

    def _identify(self, batch_size: int) -> dict[str, Any]:
        """The arguments on which the meaning of a position depends."""
        digest = xxhash.xxh3_64()
        for batch in self.table.select([self.user, self.before]).to_batches():
            digest.update(memoryview(batch.serialize()))
        return {
            "rows": digest.hexdigest(),
            "seed": self._order.seed,
            "batch_size": batch_size,
            "length": self.length,
            "available": self.available,
        }


def _share(rank: int | None, ranks: int | None) -> tuple[int, int]:
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    if ranks is None:
        ranks = torch.distributed.get_world_size() if ready else 1
    if rank is None:
        rank = torch.distributed.get_rank() if ready else 0
    if not 0 <= rank < ranks:
        raise SchemaError(f"rank={rank} of ranks={ranks}; expected 0 <= rank < ranks")
    return rank, ranks


def _checked(table: pa.Table, user: str, before: str) -> pa.Table:
    for name in (user, before):
        if name not in table.column_names:
            raise SchemaError(
                f"rows have no column {name!r}; they have {table.column_names}: name it by user=, before="
            )
        if table[name].null_count:
            raise SchemaError(f"column {name!r} has {table[name].null_count} nulls; every row needs one")
    check_instants(table[before], before)
    check_columns(table)
    return table


def _moment(targets: dict[str, str], as_of: object) -> int | None:
    if as_of is None and targets:
        raise SchemaError("targets are given without as_of; expected the instant of training, such as '2017-06-01'")
    return None if as_of is None else int(as_instants(as_of, "as_of"))


def _mature(table: pa.Table, targets: dict[str, str], as_of: int | None) -> pa.Table:
    """Set targets that were not known before `as_of` to null; `as_of` is not None if there are targets."""
    instant = 0 if as_of is None else as_of
    for label, column in targets.items():
        if missing := [name for name in (label, column) if name not in table.column_names]:
            raise SchemaError(f"targets name columns {missing} that rows lack; they have {table.column_names}")
        known = pa.array(known_at(table[column], column) < instant)
        value = pc.if_else(known, table[label], pa.scalar(None, table[label].type))
        table = table.set_column(table.column_names.index(label), label, value)
    return table.combine_chunks()
