"""Query vectors of users at query times, by the encoder of a day's index."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tokenlake.features.activity import Instants
from tokenlake.features.encoding_cache import encoding_cache
from tokenlake.features.keys import Ints
from tokenlake.lake.project import Project
from tokenlake.retrieval.identity import Identity
from tokenlake.retrieval.pools import ItemPools
from tokenlake.times import day_of


def encode(
    lake: Project, pools: ItemPools, identity: Identity, codes: Ints, as_of: Instants
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Encode users at query times with the encoder of an identity: float32 (q, dim), and a mask of users with earlier events."""
    cache = encoding_cache(lake, identity.version, identity.checkpoint)
    queries = cache.featurizer.queries(pools.log, codes, as_of)
    if not len(codes):
        return np.zeros((0, cache.checkpoint.learner.config.dim), np.float32), np.zeros(0, np.bool_)
    # Events whose label became known lately may themselves have happened before the retention window.
    when = pools.log.timestamps[np.concatenate([rows.numpy() for rows, _ in queries.histories])]
    first, last = int(when.min(initial=as_of.min())), int(as_of.max())
    encoded = cache.events(pools.log, day_of(first), day_of(last))
    vectors = cache.checkpoint.learner.pool(cache.featurizer.times(pools.log), queries, encoded)
    return vectors.numpy(), queries.lengths().numpy() > 0


def drop_self(
    rows: NDArray[np.int64], cosines: NDArray[np.float32], places: Ints
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Remove one of the nearest rows of each query, (q, k + 1) to (q, k): the user's own row, or else the last one."""
    is_own = rows == places[:, None]
    drop = np.where(is_own.any(1), is_own.argmax(1), rows.shape[1] - 1)
    keep = np.arange(rows.shape[1]) != drop[:, None]
    shape = len(rows), max(rows.shape[1] - 1, 0)
    return rows[keep].reshape(shape), cosines[keep].reshape(shape)
