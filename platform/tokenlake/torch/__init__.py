"""PyTorch datasets: labelled rows joined with their token sequences while they are read."""

from tokenlake.torch.batch import Jagged, SequenceBatch
from tokenlake.torch.dataset import SequenceDataset
from tokenlake.torch.loader import SequenceLoader

__all__ = ["Jagged", "SequenceBatch", "SequenceDataset", "SequenceLoader"]
