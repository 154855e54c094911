"""The input layer of every model: one row of numbers per instance; and the checks of instances."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from tokenlake_models.config import CompressorConfig, InputsConfig
from tokenlake_models.embeddings import FusedTable, Standardize
from tokenlake_models.errors import InstancesError
from tokenlake_models.instances import History, Instances


class ByName(nn.Module):
    """Layers or weights of features by the feature's name, which may be any text.

    `nn.ModuleDict` and `nn.ParameterDict` reject names with dots, and names of their own attributes, such as `items`,
    since they use names as attributes. Here a name is only a key; weights are named as there, `<name>.weight` and so on.
    """

    def __init__(self, values: Mapping[str, nn.Module | nn.Parameter]) -> None:
        super().__init__()
        for name, value in values.items():
            if isinstance(value, nn.Parameter):
                self._parameters[name] = value
            else:
                self._modules[name] = value

    def __iter__(self) -> Iterator[str]:
        return iter([*self._modules, *self._parameters])

    def __getitem__(self, name: str) -> Any:
        return self._modules[name] if name in self._modules else self._parameters[name]


class Inputs(nn.Module):
    """All features of an instance, concatenated: `embedded` blocks of `embedding` numbers, then the scaled numerics.

    Labels are not included.

    Args:
        config: the features.
        embedding: width of one embedded feature or vector.
        generator: of the initial embeddings.
    """

    def __init__(self, config: InputsConfig, embedding: int, generator: torch.Generator) -> None:
        super().__init__()
        self.categorical, self.multi = config.categorical_inputs, tuple(config.multi)
        self.table = FusedTable(config.rows, embedding, scale=0.1, generator=generator)
        self.dense = Standardize(len(config.numeric) + len(config.counts))
        self.has_counts = bool(config.counts)
        self.vectors = ByName({name: nn.Linear(d, embedding) for name, d in config.vectors.items()})
        self.missing = ByName({name: nn.Parameter(torch.zeros(embedding)) for name in config.vectors})
        self.embedded = len(self.categorical) + len(self.multi) + len(config.vectors)
        self.width = self.embedded * embedding + self.dense.width

    def observe(self, instances: Instances) -> None:
        """Update the statistics of the numerics with more training data."""
        self.dense.update(self.numbers(instances))

    def forward(self, instances: Instances) -> Float32[Tensor, "n width"]:
        """One row per instance."""
        parts = []
        if self.categorical:
            parts.append(self.table.lookup({k: instances.categorical[k] for k in self.categorical}).flatten(1))
        if self.multi:
            parts.append(self.table.means({k: instances.multi[k] for k in self.multi}).flatten(1))
        for name in self.vectors:
            vector = instances.vectors[name]
            there = ~vector.isnan().any(dim=1, keepdim=True)
            parts.append(torch.where(there, self.vectors[name](vector.nan_to_num(0.0)), self.missing[name]))
        return torch.cat([*parts, self.dense(self.numbers(instances))], dim=1)

    def numbers(self, instances: Instances) -> Float32[Tensor, "n columns"]:
        """Numeric features, then the counts that the model reads."""
        return torch.cat([instances.numeric, instances.counts], dim=1) if self.has_counts else instances.numeric


def check_instances(config: InputsConfig, instances: Instances) -> None:
    """Check that instances fit the config.

    Raises:
        InstancesError: they do not; the message names the feature, the given and the expected shape.
    """
    for name, rows in config.categorical.items():
        check_vocabulary_rows(name, instances.categorical.get(name), rows)
    for name, rows in config.multi.items():
        check_vocabulary_rows(name, instances.multi.get(name, (None,))[0], rows)
    n, columns = len(instances), {"numeric": config.numeric, "labels": config.labels, "known": config.labels}
    if config.counts:
        columns["counts"] = config.counts
    for name, names in columns.items():
        shape = tuple(getattr(instances, name).shape)
        if shape != (n, len(names)):
            raise InstancesError(f"{name}: shape ({n}, {len(names)}) expected for {list(names)}, got {shape}")
    for name, width in config.vectors.items():
        vector = instances.vectors.get(name)
        if vector is None or tuple(vector.shape) != (n, width):
            given = "none" if vector is None else tuple(vector.shape)
            raise InstancesError(f"vector {name!r}: shape ({n}, {width}) expected, got {given}")
        _check_finite(name, vector)
    _check_finite("numeric", instances.numeric, config.numeric)
    if config.counts:
        _check_finite("counts", instances.counts, config.counts)


def check_history(config: CompressorConfig, instances: Instances, history: History) -> None:
    """Check that a history fits the config and the instances.

    Raises:
        InstancesError: it does not; the message has the given and the expected value.
    """
    if history.tokens.shape[1:] != (config.dim,):
        raise InstancesError(f"history tokens are {tuple(history.tokens.shape)}, (total, {config.dim}) expected")
    users = int(instances.users.max()) + 1 if len(instances) else 0
    if len(history.offsets) - 1 < users:
        raise InstancesError(f"history holds {len(history.offsets) - 1} users, the instances name {users}")
    if int(history.offsets[-1]) != len(history.tokens) or bool((history.offsets.diff() < 0).any()):
        raise InstancesError(f"history offsets must ascend from 0 to its {len(history.tokens)} tokens")
    if not bool(history.tokens.isfinite().all()):
        raise InstancesError("history tokens hold NaN or infinity")


def check_vocabulary_rows(name: str, rows: Int64[Tensor, " _"] | None, count: int) -> None:
    """Check that a feature is there and holds rows of its vocabulary.

    Raises:
        InstancesError: it is missing, or holds rows beyond the model's.
    """
    if rows is None:
        raise InstancesError(f"feature {name!r} is missing from the instances")
    if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= count):
        raise InstancesError(
            f"{name!r} holds rows {int(rows.min())} to {int(rows.max())}, but the model has rows 0 to {count - 1}; "
            "grow() it to the vocabulary first, or look up with the vocabulary of this checkpoint"
        )


def _check_finite(name: str, values: Tensor, columns: tuple[str, ...] = ()) -> None:
    bad = values.isinf()
    if bool(bad.any()):
        row, column = bad.nonzero()[0].tolist()
        raise InstancesError(
            f"{name} {columns[column] if columns else column!r} of instance {row} is infinite; NaN means missing"
        )
