"""`RankerLearner`: training and scoring of a ranker, the interface of the jobs."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from tokenlake_models.averaging import follow
from tokenlake_models.checkpoint import load_weights, read_checkpoint, write_checkpoint
from tokenlake_models.errors import CheckpointError, ModelError
from tokenlake_models.fitting import FitStats, FitSteps, Progress, drop_ids
from tokenlake_models.inputs import check_instances
from tokenlake_models.jagged import offsets_of
from tokenlake_models.optimizers import Optimizers
from tokenlake_models.ranker import RankerNetwork
from tokenlake_models.ranker_config import RankerConfig
from tokenlake_models.ranking import RankingData, RankingRows, check_offsets, check_ranking_rows

#: Rows of one step without training, about; a query is never split.
_SCORING = 1024
#: Prefix of the trained weights beside the optimiser's state.
_TRAINED = "trained."


@dataclass(frozen=True)
class RankerStats(FitStats):
    """Statistics of one `RankerLearner.fit`.

    Attributes:
        curve: about 20 points: rows learned from so far, and the mean loss per target since the point before.
    """

    curve: list[tuple[int, float]]


class RankerLearner:
    """A ranker with its optimisers: trained in order of time; saving and loading does not change the results.

    >>> learner = RankerLearner.create(config)                   # doctest: +SKIP
    >>> learner.fit(data, batch=256, seed=7).loss                # doctest: +SKIP
    >>> probabilities = learner.score(data)                      # doctest: +SKIP
    >>> learner.save(folder); RankerLearner.load(folder)         # doctest: +SKIP
    """

    def __init__(self, model: RankerNetwork, *, learning_rate: float, frozen: bool = False) -> None:
        self.model = model
        self.learning_rate = learning_rate
        self._average: RankerNetwork | None = None
        self._steps = 0
        self._trained_by: Optimizers | None = None
        if not frozen:  # as in `Learner`: whoever only scores does not wait for torch's optimisers
            dense, table = (learning_rate * scale for scale in model.lr_scales)
            self._trained_by = Optimizers(
                model, model.inputs.table, learning_rate=dense, table_learning_rate=table, grid=model.grid
            )
            self._average = copy.deepcopy(model) if model.config.averaged else None

    @property
    def scorer(self) -> RankerNetwork:
        """The model that scores: the average of the weights, or, without averaging, the model that is trained."""
        return self.model if self._average is None else self._average

    @property
    def _optimizers(self) -> Optimizers:
        if self._trained_by is None:
            raise ModelError("this ranker was loaded frozen, to score; load it without `frozen` to train it")
        return self._trained_by

    @classmethod
    def create(cls, config: RankerConfig, *, learning_rate: float = 1e-3, frozen: bool = False) -> RankerLearner:
        """A new, untrained ranker; its weights follow from `config.seed` alone.

        Args:
            config: inputs and shape.
            learning_rate: of the dense weights; embeddings learn at 100 times that.
            frozen: the model will not be trained, so no optimisers are created.
        """
        return cls(RankerNetwork(config), learning_rate=learning_rate, frozen=frozen)

    @property
    def config(self) -> RankerConfig:
        """Inputs and shape of the model, with the present vocabulary sizes."""
        return self.model.config

    def grow(self, rows: dict[str, int]) -> None:
        """Extend vocabularies to the given numbers of rows; new rows start as the learned out-of-vocabulary row.

        Raises:
            InstancesError: an unknown feature, or fewer rows than there are.
        """
        self._optimizers.grow(self.model.grow(rows))
        if self._average is not None:
            self._average.grow(rows)

    def fit(
        self,
        data: RankingData,
        *,
        batch: int = 128,
        passes: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        progress: Progress | None = None,
    ) -> RankerStats:
        """Train on the rows with a known label.

        Args:
            data: of one day or several, queries in order of time.
            batch: rows with a known label per step, about: queries are never split.
            passes: passes over all rows.
            seed: of id dropout and order; the same state, data and seed give the same bits.
            shuffle: take the queries in random order; if not, in the order of the data.
            progress: called after each step with rows done and rows in all.

        Raises:
            InstancesError: the data don't fit the model, or a query reads a step that is not before its time.
            DivergedError: the loss is NaN or infinite; the message describes the batch.
        """
        began = time.perf_counter()
        self._check(data)
        self.model.inputs.observe(data.instances)
        self.scorer.inputs.dense.load_state_dict(self.model.inputs.dense.state_dict())
        generator = torch.Generator().manual_seed(seed)
        wanted = data.instances.known.any(1)
        steps = FitSteps(self._optimizers, passes * int(wanted.sum()), progress)
        for turn in range(passes):
            for queries in _query_batches(wanted, data.offsets, batch, generator if shuffle else None):
                rows = self._rows(data, queries).with_targets()
                read = drop_ids(rows.instances, self.config.id_dropout, generator)
                steps.learn(self.model(rows, read), rows.instances, turn)
                self._steps += 1
                if self._average is not None:
                    follow(self._average, self.model, self._steps)
        seconds = time.perf_counter() - began
        return RankerStats(len(data.instances), steps.targets, steps.steps, steps.loss, seconds, steps.curve)

    @torch.no_grad()
    def score(self, data: RankingData, *, progress: Progress | None = None) -> Float32[Tensor, "n L"]:
        """Probabilities of each label, without training, rows as in `data.instances`.

        Args:
            data: queries in any order.
            progress: called after each step with rows done and rows in all.

        Raises:
            InstancesError: as `fit`.
        """
        self._check(data)
        parts = [torch.zeros(0, len(self.config.labels))]
        done, everything = 0, torch.ones(len(data.instances), dtype=torch.bool)
        for queries in _query_batches(everything, data.offsets, _SCORING):
            parts.append(self.scorer(self._rows(data, queries)).sigmoid())
            done += len(parts[-1])
            if progress:
                progress(done, len(data.instances))
        return torch.cat(parts)

    def save(self, folder: Path) -> None:
        """Write weights, optimiser state and config into a folder; see `write_checkpoint`.

        The weights are those that score; with averaging, those that are trained go beside the optimiser's state.
        """
        header = {
            "model": "ranker",
            "learning_rate": self.learning_rate,
            "steps": self._steps,
            "config": dataclasses.asdict(self.config),
        }
        training = self._optimizers.state()
        if self._average is not None:
            training |= {_TRAINED + name: weight for name, weight in self.model.state_dict().items()}
        write_checkpoint(folder, header, dict(self.scorer.state_dict()), training)

    @classmethod
    def load(cls, folder: Path, *, frozen: bool = False) -> RankerLearner:
        """Load a saved ranker; further training gives the same bits as without the interruption (same machine, threads).

        Args:
            folder: folder that `save` wrote.
            frozen: load for scoring only, without the optimisers' state.

        Raises:
            CheckpointError: the checkpoint is missing or damaged, or its tensors do not fit its config.
        """
        header, weights, optimizer = read_checkpoint(folder)
        if header.get("model") != "ranker":
            raise CheckpointError(f"{folder}: a ranker expected, got {header.get('model')!r}")
        try:
            config, learning_rate, steps = header["config"], header["learning_rate"], header["steps"]
        except KeyError as error:
            raise CheckpointError(f"{folder}: config.json lacks {error}") from error
        learner = cls.create(RankerConfig.from_dict(config), learning_rate=learning_rate, frozen=frozen)
        load_weights(learner.scorer, weights)
        if not frozen:
            learner._steps = steps
            learner._load_training(optimizer)
        return learner

    def _load_training(self, state: dict[str, Tensor]) -> None:
        trained = {name.removeprefix(_TRAINED): state.pop(name) for name in list(state) if name.startswith(_TRAINED)}
        if self._average is not None:
            load_weights(self.model, trained)
        self._optimizers.load(state)

    def _check(self, data: RankingData) -> None:
        check_instances(self.config, data.instances)
        check_offsets("offsets of the data's queries", data.offsets, len(data.instances))

    def _rows(self, data: RankingData, queries: Int64[Tensor, " q"]) -> RankingRows:
        rows = data.batch(queries)
        check_ranking_rows(self.config, rows)
        return rows


def _query_batches(
    wanted: Bool[Tensor, " n"],
    offsets: Int64[Tensor, " queries_1"],
    batch: int,
    generator: torch.Generator | None = None,
) -> Iterator[Int64[Tensor, " q"]]:
    """Queries with about `batch` wanted rows together, in order or at random; those without a wanted row are left out."""
    counts = offsets_of(wanted.long())[offsets].diff()
    queries = counts.nonzero()[:, 0]
    if generator is not None:
        queries = queries[torch.randperm(len(queries), generator=generator)]
    group = (counts[queries].cumsum(0) - 1) // batch
    _, sizes = torch.unique_consecutive(group, return_counts=True)
    yield from torch.split(queries, sizes.tolist())
