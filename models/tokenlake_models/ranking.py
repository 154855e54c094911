"""Inputs of a ranker: queries (a user at an instant), the candidate rows of each, and the sequences that each reads."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from tokenlake_models.errors import InstancesError
from tokenlake_models.inputs import check_instances, check_vocabulary_rows
from tokenlake_models.instances import Instances
from tokenlake_models.jagged import row_numbers
from tokenlake_models.ranker_config import RankerConfig, SequenceConfig


@dataclass(frozen=True, slots=True)
class StepBatch:
    """What `q` queries read of one sequence: `total` steps, each query's oldest first.

    Attributes:
        timestamps: `(total,)` microseconds, each strictly before its query's time.
        offsets: `(q + 1,)` the steps of each query.
        labels: `(total, L)` as known strictly before the query's time: 0 unknown, 1 no, 2 yes.
        categorical: `{name: (total,)}` vocabulary rows of the steps, 0 = out of vocabulary; of events.
        tokens: `(total, token_dim)`; None: a sequence of events.
    """

    timestamps: Int64[Tensor, " total"]
    offsets: Int64[Tensor, " q_1"]
    labels: Int64[Tensor, "total L"]
    categorical: dict[str, Int64[Tensor, " total"]] = field(default_factory=dict)
    tokens: Float32[Tensor, "total token_dim"] | None = None

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.timestamps)


@dataclass(frozen=True, slots=True)
class RankingRows:
    """`n` candidate rows of `q` queries, with everything that a ranker reads.

    Attributes:
        instances: the rows; those of one query are together.
        offsets: `(q + 1,)` the rows of each query.
        as_of: `(q,)` microseconds: the time of each query, not later than its rows' timestamps.
        sequences: by the names of the config.
    """

    instances: Instances
    offsets: Int64[Tensor, " q_1"]
    as_of: Int64[Tensor, " q"]
    sequences: dict[str, StepBatch] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.instances)

    def with_targets(self) -> RankingRows:
        """The rows with a known label; a query may keep none."""
        known = self.instances.known.any(1)
        offsets = torch.cat([self.offsets.new_zeros(1), known.long().cumsum(0)])[self.offsets]
        return dataclasses.replace(self, instances=self.instances.select(known.nonzero()[:, 0]), offsets=offsets)


@runtime_checkable
class RankingData(Protocol):
    """Rows to train on or to score, whose sequences are made when a step needs them."""

    @property
    def instances(self) -> Instances:
        """All rows; those of one query are together."""
        ...

    @property
    def offsets(self) -> Int64[Tensor, " queries_1"]:
        """`(Q + 1,)` the rows of each query, queries in order of time."""
        ...

    def batch(self, queries: Int64[Tensor, " q"]) -> RankingRows:
        """The rows of these queries, in this order, with their sequences."""
        ...


def check_ranking_rows(config: RankerConfig, rows: RankingRows) -> None:
    """Check that rows fit the config, and that no query reads a step at or after its time.

    Raises:
        InstancesError: they do not; the message says what was given and what was expected.
    """
    check_instances(config, rows.instances)
    check_offsets("offsets of the queries", rows.offsets, len(rows.instances))
    queries = len(rows.offsets) - 1
    if len(rows.as_of) != queries:
        raise InstancesError(f"as_of: one time for each of {queries} queries expected, got {len(rows.as_of)}")
    late = (rows.as_of[row_numbers(rows.offsets)] > rows.instances.timestamps).nonzero()[:, 0]
    if len(late):
        row = int(late[0])
        raise InstancesError(
            f"as_of is later than the timestamp of row {row}, {int(rows.instances.timestamps[row])}; "
            "a query's time is not later than its rows, or they would read their own future"
        )
    for sequence in config.sequences:
        given = rows.sequences.get(sequence.name)
        if given is None:
            raise InstancesError(f"sequence {sequence.name!r} is missing; got {sorted(rows.sequences)}")
        _check_sequence(config, sequence, given, rows.as_of)


def check_offsets(name: str, offsets: Int64[Tensor, " rows_1"], total: int) -> None:
    """Check that offsets ascend from 0 to `total`.

    Raises:
        InstancesError: they do not.
    """
    if not len(offsets) or int(offsets[0]) != 0 or int(offsets[-1]) != total or bool((offsets.diff() < 0).any()):
        raise InstancesError(
            f"{name} must ascend from 0 to {total}, got {offsets[:3].tolist()}..{offsets[-1:].tolist()}"
        )


def _check_sequence(
    config: RankerConfig, sequence: SequenceConfig, given: StepBatch, as_of: Int64[Tensor, " q"]
) -> None:
    name, total, queries = f"sequence {sequence.name!r}", len(given), len(as_of)
    if len(given.offsets) != queries + 1:
        raise InstancesError(f"{name}: offsets of {queries} queries expected, got {len(given.offsets) - 1}")
    check_offsets(f"{name}: offsets", given.offsets, total)
    if queries and int(given.offsets.diff().max()) > sequence.length:
        longest = int(given.offsets.diff().max())
        raise InstancesError(f"{name}: at most {sequence.length} steps a query expected, got {longest}")
    _check_times(name, given, as_of)
    if tuple(given.labels.shape) != (total, len(config.labels)):
        raise InstancesError(
            f"{name}: labels of shape ({total}, {len(config.labels)}) expected, got {tuple(given.labels.shape)}"
        )
    if total and (int(given.labels.min()) < 0 or int(given.labels.max()) > 2):
        raise InstancesError(
            f"{name}: labels are 0 unknown, 1 no, 2 yes; got {int(given.labels.min())} to {int(given.labels.max())}"
        )
    for feature in sequence.categorical:
        rows = given.categorical.get(feature)
        if rows is not None and len(rows) != total:
            raise InstancesError(f"{name}: {total} values of {feature!r} expected, got {len(rows)}")
        check_vocabulary_rows(feature, rows, config.rows[feature])
    if sequence.source == "tokens":
        _check_tokens(name, given.tokens, (total, sequence.token_dim))


def _check_times(name: str, given: StepBatch, as_of: Int64[Tensor, " q"]) -> None:
    rows = row_numbers(given.offsets)
    late = (given.timestamps >= as_of[rows]).nonzero()[:, 0]
    if len(late):
        step = int(late[0])
        raise InstancesError(
            f"{name}: step {step} happened at {int(given.timestamps[step])}, which is not before its query's time, "
            f"{int(as_of[rows[step]])}; a query reads only what is strictly earlier"
        )
    if bool(((given.timestamps[1:] < given.timestamps[:-1]) & (rows[1:] == rows[:-1])).any()):
        raise InstancesError(f"{name}: timestamps must ascend within a query, oldest first")


def _check_tokens(name: str, tokens: Tensor | None, shape: tuple[int, int]) -> None:
    if tokens is None or tuple(tokens.shape) != shape:
        given = "none" if tokens is None else tuple(tokens.shape)
        raise InstancesError(f"{name}: tokens of shape {shape} expected, got {given}")
    if not bool(tokens.isfinite().all()):
        raise InstancesError(f"{name}: tokens hold NaN or infinity")
