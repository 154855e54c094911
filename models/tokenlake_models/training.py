"""`Learner`: training, scoring and encoding, the interface of the jobs."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float32
from torch import Tensor

from tokenlake_models.baselines import LogisticRegression
from tokenlake_models.checkpoint import load_weights, read_checkpoint, write_checkpoint
from tokenlake_models.config import CompressorConfig
from tokenlake_models.errors import CheckpointError, ModelError
from tokenlake_models.fitting import FitStats, FitSteps, Progress, drop_ids
from tokenlake_models.iat import InstanceCompressor
from tokenlake_models.inputs import check_history, check_instances
from tokenlake_models.instances import History, Instances
from tokenlake_models.optimizers import Optimizers
from tokenlake_models.sequences import Sequences

ModelName = Literal["compressor", "logistic"]
_MODELS: dict[str, type[InstanceCompressor | LogisticRegression]] = {
    "compressor": InstanceCompressor,
    "logistic": LogisticRegression,
}
#: Rows of one step without training, chosen to fit a core's cache.
_SCORING = 1024


class Learner:
    """A model with its optimisers: trained day after day; saving and loading does not change the results.

    >>> learner = Learner.create(config, learning_rate=1e-3)            # doctest: +SKIP
    >>> learner.fit(instances, history, batch=512, passes=1, seed=7)    # doctest: +SKIP
    >>> tokens = learner.encode(instances)                              # doctest: +SKIP
    >>> learner.save(folder); learner = Learner.load(folder)            # doctest: +SKIP
    """

    def __init__(
        self, model: InstanceCompressor | LogisticRegression, *, learning_rate: float, frozen: bool = False
    ) -> None:
        self.model = model
        self.learning_rate = learning_rate
        self._trained_by: Optimizers | None = None
        if not frozen:  # torch takes seconds to import what its optimisers need, so whoever only reads goes without
            dense, table = (learning_rate * lr_scale for lr_scale in model.lr_scales)
            self._trained_by = Optimizers(model, model.inputs.table, learning_rate=dense, table_learning_rate=table)

    @property
    def _optimizers(self) -> Optimizers:
        if self._trained_by is None:
            raise ModelError(
                "this learner was loaded frozen, to score and encode; load it without `frozen` to train it"
            )
        return self._trained_by

    @classmethod
    def create(
        cls,
        config: CompressorConfig,
        *,
        model: ModelName = "compressor",
        learning_rate: float = 1e-3,
        frozen: bool = False,
    ) -> Learner:
        """A new, untrained model; its weights follow from `config.seed` alone.

        Args:
            config: inputs and shape.
            model: `compressor`, or `logistic`, the baseline on the same inputs.
            learning_rate: of the compressor's dense weights; embeddings and baseline learn in proportion (`lr_scales`).
            frozen: the model will not be trained, so no optimisers are created.
        """
        return cls(_MODELS[model](config), learning_rate=learning_rate, frozen=frozen)

    @property
    def config(self) -> CompressorConfig:
        """Inputs and shape of the model, with the present vocabulary sizes."""
        return self.model.config

    def grow(self, rows: dict[str, int]) -> None:
        """Extend vocabularies to the given numbers of rows; new rows start as the learned out-of-vocabulary row.

        Raises:
            InstancesError: an unknown feature, or fewer rows than there are.
        """
        self._optimizers.grow(self.model.grow(rows))

    def fit(
        self,
        instances: Instances,
        history: History | None = None,
        *,
        batch: int = 512,
        passes: int = 1,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> FitStats:
        """Train on the instances, once or more.

        In temporal-order (and for the baseline) batches follow global time. In user-order a batch holds segments of
        users, whose later rows come in later steps; every second pass takes the users in reversed order.

        Args:
            instances: of one day or several; rows without a known label are history, not targets.
            history: tokens of their users from before these instances, read in user-order.
            batch: rows per step, about.
            passes: passes over all rows.
            seed: of the order of users and of id dropout; the same state, data and seed give the same bits.
            progress: called after each step with rows done and rows in all.

        Raises:
            InstancesError: instances or history don't fit the model.
            DivergedError: the loss is NaN or infinite; the message describes the batch.
        """
        began = time.perf_counter()
        past = self._checked(instances, history)
        self.model.inputs.observe(instances)
        generator = torch.Generator().manual_seed(seed)
        steps = FitSteps(self._optimizers, passes * int(instances.known.any(1).sum()), progress)
        for turn in range(passes):
            for rows, logits in self._forward_steps(instances, past, batch, generator, turn):
                steps.learn(logits, instances.select(rows), turn)
        return FitStats(len(instances), steps.targets, steps.steps, steps.loss, time.perf_counter() - began)

    @torch.no_grad()
    def score(self, instances: Instances, history: History | None = None) -> Float32[Tensor, "n L"]:
        """Probabilities of each label, without training.

        Args:
            instances: in any order; in user-order each reads the earlier ones of its user among them.
            history: tokens of their users from before these instances, read in user-order.

        Raises:
            InstancesError: instances or history don't fit the model.
        """
        past = self._checked(instances, history)
        model = self.model
        if not (isinstance(model, InstanceCompressor) and model.is_sequential):
            parts = [model(instances.select(rows)) for rows in torch.split(torch.arange(len(instances)), _SCORING)]
            return torch.cat([past.tokens.new_zeros(0, len(self.config.labels)), *parts]).sigmoid()
        tokens = self.encode(instances)
        logits = tokens.new_zeros(len(instances), len(self.config.labels))
        sequences = Sequences(instances, past, self.config.history)
        for segments in itertools.chain(*sequences.batches(_SCORING)):
            window = sequences.window(segments)
            read = torch.cat([past.tokens[window.past], tokens[window.context], tokens[window.own]])
            logits[window.own] = model.logits(model.contextual(read, window))
        return logits.sigmoid()

    @torch.no_grad()
    def encode(self, instances: Instances) -> Float32[Tensor, "n dim"]:
        """The tokens to store, from each instance's features only, before SIT, in both schemes.

        Raises:
            InstancesError: the instances don't fit the model.
            ModelError: the model is a baseline, which makes no tokens.
        """
        if not isinstance(self.model, InstanceCompressor):
            raise ModelError("a logistic regression makes no tokens; encode() needs a model='compressor'")
        check_instances(self.config, instances)
        rows = torch.split(torch.arange(len(instances)), _SCORING)
        return torch.cat([self.model.compress(instances.select(part)) for part in rows])

    def save(self, folder: Path) -> None:
        """Write weights, optimiser state and config into a folder; see `write_checkpoint`."""
        header = {
            "model": "compressor" if isinstance(self.model, InstanceCompressor) else "logistic",
            "learning_rate": self.learning_rate,
            "config": dataclasses.asdict(self.config),
        }
        write_checkpoint(folder, header, dict(self.model.state_dict()), self._optimizers.state())

    @classmethod
    def load(cls, folder: Path, *, frozen: bool = False) -> Learner:
        """Load a saved model; further training gives the same bits as without the interruption (same machine, threads).

        Args:
            folder: folder that `save` wrote.
            frozen: load for scoring and encoding only, without the optimisers' state.

        Raises:
            CheckpointError: the checkpoint is missing or damaged, or its tensors do not fit its config.
        """
        header, weights, optimizer = read_checkpoint(folder)
        if header.get("model") not in _MODELS:
            raise CheckpointError(f"{folder}: a model of {sorted(_MODELS)} expected, got {header.get('model')!r}")
        try:
            learner = cls.create(
                CompressorConfig.from_dict(header["config"]),
                model=header["model"],
                learning_rate=header["learning_rate"],
                frozen=frozen,
            )
        except KeyError as error:
            raise CheckpointError(f"{folder}: config.json lacks {error}") from error
        load_weights(learner.model, weights)
        if not frozen:
            learner._optimizers.load(optimizer)
        return learner

    def _checked(self, instances: Instances, history: History | None) -> History:
        check_instances(self.config, instances)
        if history is None:
            users = int(instances.users.max()) + 1 if len(instances) else 0
            return History.empty(users, self.config.dim)
        check_history(self.config, instances, history)
        return history

    def _forward_steps(
        self, instances: Instances, past: History, batch: int, generator: torch.Generator, turn: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield rows with a target and their logits, step by step; each is computed after the step before was applied."""
        model, share = self.model, self.config.id_dropout
        wanted = instances.known.any(1)
        if not (isinstance(model, InstanceCompressor) and model.is_sequential):
            in_time = torch.sort(instances.timestamps, stable=True).indices
            for rows in torch.split(in_time[wanted[in_time]], batch):
                yield rows, model(drop_ids(instances.select(rows), share, generator))
            return
        sequences = Sequences(instances, past, self.config.history)
        for wave in sequences.batches(batch, generator):
            for segments in reversed(wave) if turn % 2 else wave:
                window = sequences.window(segments)
                asks = wanted[window.own]
                if not bool(asks.any()):
                    continue
                tokens = model.compress(drop_ids(instances.select(window.own), share, generator))
                with torch.no_grad():
                    context = model.compress(instances.select(window.context))
                read = torch.cat([past.tokens[window.past], context, tokens])
                yield window.own[asks], model.logits(model.contextual(read, window, asks))
