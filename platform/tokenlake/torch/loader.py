"""Worker processes that read a dataset ahead, and the position of the batches taken from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch.utils.data

from tokenlake.torch.batch import SequenceBatch

if TYPE_CHECKING:
    from tokenlake.torch.dataset import SequenceDataset


class SequenceLoader:
    """A `DataLoader` of a `SequenceDataset`, made by `SequenceDataset.loader`.

    The batches and their order are the same for any number of workers. An iteration covers the rest of an epoch; the
    next iteration begins the next epoch.
    """

    def __init__(self, dataset: SequenceDataset, workers: int, **options: Any) -> None:
        self.dataset = dataset
        self._loader: torch.utils.data.DataLoader[SequenceBatch] = torch.utils.data.DataLoader(
            dataset,
            batch_size=None,
            num_workers=workers,
            # A forked child would hang in OpenMP, and share the file positions of the parent's open logs.
            multiprocessing_context="spawn" if workers else None,
            persistent_workers=bool(workers),
            **options,
        )

    def __iter__(self) -> Iterator[SequenceBatch]:
        dataset = self.dataset
        if self._loader.num_workers == 0:
            yield from self._loader
            return
        dataset.share_position()
        for batch in self._loader:
            dataset.seek(batch.state)
            yield batch
        dataset.set_epoch(dataset.epoch + 1)

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch that this loader returned."""
        return self.dataset.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a `state_dict` was taken.

        Args:
            state: what `state_dict`, or a batch's `state`, told.

        Raises:
            VersionError: the state is of another dataset, as `SequenceDataset.load_state_dict` says.
        """
        self.dataset.load_state_dict(state)

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch with the next pass.

        Args:
            epoch: its number; the order of the rows depends on it.
        """
        self.dataset.set_epoch(epoch)
