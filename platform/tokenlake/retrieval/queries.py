"""Query vectors: users at moments, by the encoder that made a day's index."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tokenlake.lake.lake import Lake
from tokenlake.pipeline import checkpoints
from tokenlake.pipeline.activity import Instants
from tokenlake.pipeline.keys import Ints
from tokenlake.pipeline.user_features import UserFeaturizer
from tokenlake.retrieval.identity import Identity
from tokenlake.retrieval.pools import Pools


def encode(
    lake: Lake, pools: Pools, identity: Identity, codes: Ints, now: Instants
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Vectors of users at moments by an identity's encoder, float32 (q, dim); and who did anything before."""
    checkpoint = checkpoints.load_users(lake, identity.version, identity.checkpoint)
    featurizer = UserFeaturizer(lake.config)
    moments = featurizer.moments(pools.log, codes, now)
    vectors = checkpoint.learner.users(featurizer.activity(pools.log, checkpoint.vocabulary), moments)
    return vectors.numpy(), moments.lengths().numpy() > 0


def others(rows: Ints, cosines: NDArray[np.float32], place: np.int64, k: int) -> tuple[Ints, NDArray[np.float32]]:
    """The k nearest of a query but for the row that is its own user's."""
    keep = rows != place
    return rows[keep][:k], cosines[keep][:k]
