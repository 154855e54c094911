"""Earlier tokens of the users at hand, as the source model's sequence module (SIT) reads them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import torch

from tokenlake.lake.project import Project
from tokenlake.times import Day, day_start
from tokenlake.tokens.store import TokenStore
from tokenlake_models.instances import History


def token_history(lake: Project, version: str, events: pa.Table, *, before: Day, length: int) -> History | None:
    """Fetch the last tokens of every user of `events` from the days before `before`.

    Args:
        events: rows whose `user_id`, in order of first appearance, are the users 0..U-1 of the result.
        before: the first day that is not seen.
        length: tokens per user at most.

    Returns:
        Jagged tokens, oldest first; None where nothing was published yet.
    """
    path = lake.store_path(version)
    if length == 0 or not TokenStore.exists(path):
        return None
    return fetch_history(TokenStore.open(path), pc.unique(events["user_id"]), before=before, length=length)


def fetch_history(store: TokenStore, users: pa.Array, *, before: Day, length: int) -> History:
    """Fetch the last `length` tokens of each user before a day begins."""
    batch = store.fetch(users, before=day_start(before), length=length)
    values = batch.torch().values
    return History(values.to(torch.float32), torch.from_numpy(batch.timestamps), torch.from_numpy(batch.offsets))
