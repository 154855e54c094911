"""Trains the user encoder by sampled softmax over the next items, and embeds with it."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy

from tokenlake_models.activity import Activity, Categorical, Encoded, Items, Multi, Stream, Targets, UserQueries
from tokenlake_models.alure import AlureConfig, AlureEncoder
from tokenlake_models.checkpoint import load_weights, read_checkpoint, write_checkpoint
from tokenlake_models.errors import CheckpointError, DivergedError, InstancesError, ModelError
from tokenlake_models.jagged import row_numbers, take_rows
from tokenlake_models.optimizers import Optimizers

_MODEL = "alure"
#: Queries of one step without training.
SCORING_BATCH = 1024
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class AlureStats:
    """Statistics of one `AlureLearner.fit`.

    Attributes:
        queries: queries given.
        targets: number of target items.
        steps: optimiser steps.
        loss: mean cross-entropy per target, computed before the step that trained on it; None without targets.
        seconds: wall time.
    """

    queries: int
    targets: int
    steps: int
    loss: float | None
    seconds: float


class AlureLearner:
    """A user encoder with its optimisers: trained day after day; saving and loading does not change the results.

    >>> learner = AlureLearner.create(config)                                    # doctest: +SKIP
    >>> learner.fit(activity, queries, targets, items, batch=64, seed=7)         # doctest: +SKIP
    >>> vectors = learner.users(activity, queries)                               # doctest: +SKIP
    """

    def __init__(
        self, model: AlureEncoder, *, learning_rate: float, table_learning_rate: float, frozen: bool = False
    ) -> None:
        self.model = model
        self.learning_rate = learning_rate
        self.table_learning_rate = table_learning_rate
        self._trained_by: Optimizers | None = None
        if not frozen:  # torch takes seconds to import what its optimisers need, so whoever only reads goes without
            self._trained_by = Optimizers(
                model, model.table, learning_rate=learning_rate, table_learning_rate=table_learning_rate
            )

    @property
    def _optimizers(self) -> Optimizers:
        if self._trained_by is None:
            raise ModelError("this learner was loaded frozen, to embed; load it without `frozen` to train it")
        return self._trained_by

    @classmethod
    def create(
        cls,
        config: AlureConfig,
        *,
        learning_rate: float = 1e-3,
        table_learning_rate: float = 0.05,
        frozen: bool = False,
    ) -> AlureLearner:
        """A new, untrained model; its weights follow from `config.seed` alone.

        Args:
            config: inputs and shape.
            learning_rate: of the dense weights.
            table_learning_rate: of the embedding table.
            frozen: the model will not be trained, so no optimisers are created.
        """
        return cls(
            AlureEncoder(config),
            learning_rate=learning_rate,
            table_learning_rate=table_learning_rate,
            frozen=frozen,
        )

    @property
    def config(self) -> AlureConfig:
        """Inputs and shape of the model, with the present vocabulary sizes."""
        return self.model.config

    def grow(self, rows: dict[str, int]) -> None:
        """Extend vocabularies; new rows start as the learned out-of-vocabulary row."""
        self._optimizers.grow(self.model.grow(rows))

    def fit(
        self,
        activity: Activity,
        queries: UserQueries,
        targets: Targets,
        items: Items,
        *,
        batch: int = 64,
        negatives: int = 2000,
        passes: int = 1,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> AlureStats:
        """Train to predict the targets of each query, by softmax over sampled items with the log-q correction.

        A catalog of at most `negatives` items is used completely, without a correction. Targets of the same query are
        not negatives of each other. An item's popularity has a learned weight in the loss, so that the vectors encode
        the differences between users.

        Args:
            activity: events of the histories.
            queries: the queries; those without a target are not trained on.
            targets: the target items of each query.
            items: the items from which negatives are sampled; it contains every target.
            batch: queries per step.
            negatives: items sampled per step, half of them uniformly, half in proportion to their events.
            passes: over all queries.
            seed: of the order, the negatives and the id dropout; the same state, data and seed give the same bits.
            progress: called after each step with queries done and queries in all.

        Raises:
            InstancesError: queries, targets or features don't fit the model or each other.
            DivergedError: the loss is NaN or infinite.
        """
        began = time.perf_counter()
        self._check(queries, activity.categorical, activity.multi)
        if len(targets.offsets) != len(queries) + 1:
            raise InstancesError(f"{len(targets.offsets) - 1} rows of targets given for {len(queries)} queries")
        generator = torch.Generator().manual_seed(seed)
        asked = targets.offsets.diff().nonzero()[:, 0]
        self._take_statistics(activity, items)
        steps, seen, total, done = 0, 0, 0.0, 0
        for _ in range(passes if len(asked) else 0):  # an empty tensor splits into one empty part
            for rows in torch.split(_shuffled(queries, asked, generator), batch):
                wanted, offsets = take_rows(targets.items, targets.offsets, rows)
                loss = self._loss(activity, queries.select(rows), wanted, offsets, items, negatives, generator)
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise DivergedError(f"the loss of step {steps} is {value}; lower the learning rate")
                torch.autograd.backward(loss)
                self._optimizers.step()
                steps, seen, total, done = steps + 1, seen + len(wanted), total + value * len(wanted), done + len(rows)
                if progress:
                    progress(done, passes * len(asked))
        mean = total / seen if seen else None
        return AlureStats(len(queries), seen, steps, mean, time.perf_counter() - began)

    @torch.no_grad()
    def users(self, activity: Activity, queries: UserQueries) -> Float32[Tensor, "q dim"]:
        """Unit vectors of users at query times.

        Raises:
            InstancesError: histories or features don't fit the model.
        """
        self._check(queries, activity.categorical, activity.multi)
        return self.pool(activity, queries, self.model.encode_for(activity, queries))

    @torch.no_grad()
    def encode(self, activity: Activity, streams: Sequence[Stream]) -> list[Float32[Tensor, "m two_width"]]:
        """Keys and values of the events of some streams, one for each source.

        Raises:
            InstancesError: features don't fit the model.
        """
        self._check(None, activity.categorical, activity.multi, of="events")
        return [encoded.values for encoded in self.model.encode(activity, streams)]

    @torch.no_grad()
    def pool(
        self,
        activity: Activity,
        queries: UserQueries,
        encoded: Sequence[Encoded],
        parts: Sequence[Tensor] | None = None,
    ) -> Float32[Tensor, "q dim"]:
        """Unit vectors of queries from encoded events.

        Args:
            activity: only times and labels are read.
            queries: users and times.
            encoded: results of `encode`, one for each source.
            parts: the parts of `batches(queries)` to compute, zeros for the others; None: all parts.
        """
        out = torch.zeros(len(queries), self.config.dim)
        for rows in batches(queries) if parts is None else parts:
            out[rows] = self.model.pool(activity, queries.select(rows), encoded)
        return out

    @torch.no_grad()
    def items(self, items: Items) -> Float32[Tensor, "m dim"]:
        """Unit vectors of items; the vector of an unseen item depends only on its features.

        Raises:
            InstancesError: features don't fit the model.
        """
        self._check(None, items.categorical, items.multi)
        parts = [self.model.items(items.select(rows)) for rows in torch.split(torch.arange(len(items)), 4096)]
        return torch.cat([torch.zeros(0, self.config.dim), *parts])

    def save(self, folder: Path) -> None:
        """Write weights, optimiser state and config into a folder; see `write_checkpoint`."""
        header = {
            "model": _MODEL,
            "learning_rate": self.learning_rate,
            "table_learning_rate": self.table_learning_rate,
            "config": dataclasses.asdict(self.config),
        }
        write_checkpoint(folder, header, dict(self.model.state_dict()), self._optimizers.state())

    @classmethod
    def load(cls, folder: Path, *, frozen: bool = False) -> AlureLearner:
        """Load a saved model; further training gives the same bits as without the interruption (same machine, threads).

        Args:
            folder: folder that `save` wrote.
            frozen: load for embedding only, without the optimisers' state.

        Raises:
            CheckpointError: the checkpoint is missing or damaged, or its tensors do not fit its config.
        """
        header, weights, optimizer = read_checkpoint(folder)
        if header.get("model") != _MODEL:
            raise CheckpointError(f"{folder}: a model {_MODEL!r} expected, got {header.get('model')!r}")
        try:
            learner = cls.create(
                AlureConfig.from_dict(header["config"]),
                learning_rate=header["learning_rate"],
                table_learning_rate=header["table_learning_rate"],
                frozen=frozen,
            )
        except KeyError as error:
            raise CheckpointError(f"{folder}: config.json lacks {error}") from error
        load_weights(learner.model, weights)
        if not frozen:
            learner._optimizers.load(optimizer)
        return learner

    def _loss(
        self,
        activity: Activity,
        queries: UserQueries,
        wanted: Tensor,
        offsets: Tensor,
        items: Items,
        negatives: int,
        generator: torch.Generator,
    ) -> Tensor:
        share = self.config.id_dropout
        candidates, expected = _candidates(wanted, items, negatives, generator)
        users = self.model.users(_without_ids(activity, queries, share, generator), queries)
        towers = self.model.items(_drop_ids(items.select(candidates), share, generator))
        popular = torch.log((items.events[candidates] + 1) / items.events.sum()).float()
        logits = self.model.log_scale.exp() * users @ towers.T + self.model.popularity * popular - expected
        own = torch.searchsorted(candidates, wanted)
        rows = row_numbers(offsets)
        also = torch.zeros_like(logits, dtype=torch.bool).index_put((rows, own), torch.tensor(True))  # noqa: FBT003  # a value
        each = logits[rows].masked_fill(also[rows].scatter(1, own.unsqueeze(1), value=False), -torch.inf)
        return cross_entropy(each, own)

    def _take_statistics(self, activity: Activity, items: Items) -> None:
        for scale, numbers in ((self.model.scale, activity.numeric), (self.model.item_scale, items.numeric)):
            if numbers is not None and numbers.shape[1]:
                scale.update(numbers)

    def _check(
        self,
        queries: UserQueries | None,
        categorical: Categorical,
        multi: Multi,
        *,
        of: Literal["events", "items"] = "items",
    ) -> None:
        config = self.config
        if queries is not None and len(queries.histories) != len(config.sources):
            raise InstancesError(
                f"{len(queries.histories)} histories given; the model reads the sources {list(config.sources)}"
            )
        wanted = config.rows.keys() if queries is not None or of == "events" else set(config.item_features)
        names = wanted & config.rows.keys()
        if missing := names - categorical.keys() - multi.keys():
            raise InstancesError(f"features {sorted(missing)} are missing; the model reads {sorted(names)}")
        largest = {name: rows for name, rows in categorical.items() if name in names}
        largest |= {name: values for name, (values, _) in multi.items() if name in names}
        for name, rows in largest.items():
            if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < config.rows[name]:
                raise InstancesError(
                    f"{name}: rows {int(rows.min())} to {int(rows.max())} given, the model has {config.rows[name]}; "
                    "grow() it first"
                )


def batches(queries: UserQueries) -> list[Int64[Tensor, " _"]]:
    """Split queries into batches of similar length.

    The last bits of a vector depend on the other queries of its batch, so parallel workers must get whole batches.
    """
    order = torch.argsort(queries.lengths(), stable=True)
    return [part for part in torch.split(order, SCORING_BATCH) if len(part)]


def _candidates(wanted: Tensor, items: Items, negatives: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sampled rows of items, ascending, and the logarithm of each item's sampling probability."""
    if len(items) <= negatives:
        return torch.arange(len(items)), torch.zeros(len(items))
    popular = items.events / items.events.sum()
    chance = 0.5 * popular + 0.5 / len(items)
    drawn = torch.multinomial(chance, negatives, replacement=True, generator=generator)
    candidates = torch.unique(torch.cat([wanted, drawn]))
    missed = negatives * torch.log1p(-chance[candidates]) + len(wanted) * torch.log1p(-popular[candidates])
    return candidates, torch.log(-torch.expm1(missed)).float()


def _drop_ids(items: Items, share: float, generator: torch.Generator) -> Items:
    """Replace a random share of item ids by the out-of-vocabulary row, which thereby learns to represent unseen items."""
    kept = torch.rand(len(items), generator=generator) >= share
    return dataclasses.replace(items, categorical=items.categorical | {"item_id": items.categorical["item_id"] * kept})


def _without_ids(activity: Activity, queries: UserQueries, share: float, generator: torch.Generator) -> Activity:
    """As `_drop_ids`, for the events of histories; the id of an event is dropped for all queries of a step, or for none."""
    read = torch.unique(torch.cat([rows for rows, _ in queries.histories]))
    return activity.without_ids(read[torch.rand(len(read), generator=generator) < share])


def _shuffled(queries: UserQueries, asked: Tensor, generator: torch.Generator) -> Tensor:
    """Queries in random order of their users: queries of one user share most events, which are encoded once per step."""
    if queries.users is None:
        return asked[torch.randperm(len(asked), generator=generator)]
    _, user = torch.unique(queries.users[asked], return_inverse=True)
    order = torch.randperm(int(user.max()) + 1 if len(user) else 0, generator=generator)
    mixed = torch.randperm(len(asked), generator=generator)
    return asked[mixed[torch.argsort(order[user[mixed]], stable=True)]]
