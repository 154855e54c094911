"""Optimisers: row-wise Adagrad for the sparse embedding table, AdamW for everything else."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from tokenlake_models.embeddings import FusedTable, NumberGrid
from tokenlake_models.errors import CheckpointError

_EPS = 1e-8


class RowwiseAdagrad:
    """Adagrad with one accumulator per row; updates only the rows that have a gradient.

    The usual choice for embedding tables: rare ids keep a large step size, and the state is one float per row.
    """

    def __init__(self, table: FusedTable | NumberGrid, learning_rate: float) -> None:
        self.table = table
        self.learning_rate = learning_rate
        self.squares = torch.zeros(len(table.weight))

    def grow(self, origin: Int64[Tensor, " new_total"]) -> None:
        """Extend the state after `FusedTable.grow`: new rows start with an accumulator of 0."""
        self.squares = torch.where(origin < 0, 0.0, self.squares[origin.clamp(min=0)])

    @torch.no_grad()
    def step(self) -> None:
        """Apply the gradient and clear it."""
        weight = self.table.weight
        if weight.grad is None:
            return
        rows, values = _rows_of(weight.grad)
        squares = self.squares[rows] + values.square().mean(1)
        self.squares[rows] = squares
        weight.index_add_(0, rows, values / (squares.sqrt() + _EPS).unsqueeze(1), alpha=-self.learning_rate)
        weight.grad = None


class Optimizers:
    """Both optimisers of a model, with common steps, growth and state.

    Args:
        model: all its parameters are trained.
        table: its embedding table.
        learning_rate: of the dense weights.
        table_learning_rate: of the tables.
        grid: a further table of the model that learns like the first.
    """

    def __init__(
        self,
        model: nn.Module,
        table: FusedTable,
        *,
        learning_rate: float,
        table_learning_rate: float,
        grid: NumberGrid | None = None,
    ) -> None:
        self.table = RowwiseAdagrad(table, table_learning_rate)
        self._tables = {"table": self.table}
        if grid is not None:
            self._tables["grid"] = RowwiseAdagrad(grid, table_learning_rate)
        rows = [optimizer.table for optimizer in self._tables.values()]
        self._dense = {
            name: weight for name, weight in model.named_parameters() if all(weight is not one.weight for one in rows)
        }
        self.dense = torch.optim.AdamW(self._dense.values(), lr=learning_rate, weight_decay=1e-4, fused=True)

    def step(self) -> None:
        """Apply all gradients and clear them."""
        for table in self._tables.values():
            table.step()
        self.dense.step()
        self.dense.zero_grad()

    def grow(self, origin: Int64[Tensor, " new_total"]) -> None:
        """Extend the state after `FusedTable.grow`."""
        self.table.grow(origin)

    def state(self) -> dict[str, Tensor]:
        """All tensors of the state, by name; AdamW's exist after its first step."""
        state = {f"{name}.squares": table.squares for name, table in self._tables.items()}
        for name, parameter in self._dense.items():
            for key, value in self.dense.state.get(parameter, {}).items():
                state[f"dense.{name}.{key}"] = value
        return state

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state()`.

        Raises:
            CheckpointError: a tensor is missing, unknown, or has another shape.
        """
        rest = set(state)
        for name, table in self._tables.items():
            squares = state.get(f"{name}.squares")
            if squares is None or squares.shape != table.squares.shape:
                given = "none" if squares is None else tuple(squares.shape)
                raise CheckpointError(f"{name}.squares: {tuple(table.squares.shape)} expected, got {given}")
            table.squares = squares.clone()
            rest.remove(f"{name}.squares")
        for name, parameter in self._dense.items():
            held = {f"dense.{name}.{key}": key for key in ("step", "exp_avg", "exp_avg_sq")}
            found = rest & held.keys()
            rest -= found
            if not found:
                continue
            for full in held:
                shape = () if full.endswith(".step") else tuple(parameter.shape)
                if full not in state or tuple(state[full].shape) != shape:
                    given = tuple(state[full].shape) if full in state else "none"
                    raise CheckpointError(f"{full}: {shape} expected, got {given}")
            self.dense.state[parameter] = {key: state[full].clone() for full, key in held.items()}
        if rest:
            raise CheckpointError(f"optimizer state of no parameter of this model: {sorted(rest)[:5]}")


def _rows_of(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers and values of the rows that a sparse or dense gradient has."""
    if gradient.is_sparse:
        gradient = gradient.coalesce()
        return gradient.indices()[0], gradient.values()
    rows = gradient.any(1).nonzero()[:, 0]
    return rows, gradient[rows]
