"""Which promotions a trip passed by: the negatives of Complete Journey. They depend on the trip and the seed alone."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tokenlake.datasets._hash import below, mix
from tokenlake.datasets._journey import PLACE_BITS, PRODUCT_BITS, Ints, Journey, spread

HARD: Final = "hard"
#: Number of negatives per promoted purchase, or `hard`.
Negatives: TypeAlias = float | Literal["hard"]
_HARD_RATIO = 2.0
#: Trips that are looked at together, which bounds the memory.
_TRIPS = 4_096
#: Draws by popularity before what a shelf still holds is gone through.
_ROUNDS = 12
_PRODUCT = (1 << PRODUCT_BITS) - 1


def passed_by(
    data: Journey, shelf: Ints, is_promo: NDArray[np.bool_], negatives: Negatives, seed: int
) -> tuple[Ints, Ints]:
    """Sample promotions that were not bought.

    Args:
        data: the trips, purchases and promotions.
        shelf: store and week of each trip, packed.
        is_promo: of each purchase, whether it was promoted.
        negatives: how many per promoted purchase, at least two a trip and none for 0; or `hard`.
        seed: of the sample.

    Returns:
        The trip of each, and its row in `data.promotions`.
    """
    place = data.promotions >> (PLACE_BITS + PRODUCT_BITS)
    low = np.searchsorted(place, shelf, "left")
    size = np.searchsorted(place, shelf, "right") - low
    taken = np.bincount(data.bought_trip[is_promo], minlength=len(size))
    ratio = _HARD_RATIO if negatives == HARD else float(negatives)
    want = np.maximum(np.floor(ratio * taken + 0.5).astype(np.int64), 2) if ratio else np.zeros_like(size)
    want = np.minimum(want, size - taken)
    if negatives == HARD:
        return _hard(data, shelf, low, size, want, seed)
    return _even(data, low, size, taken, want, seed)


def _even(data: Journey, low: Ints, size: Ints, taken: Ints, want: Ints, seed: int) -> tuple[Ints, Ints]:
    """Step through the promotions of each trip's store and week from a hashed start with a hashed stride.

    The stride is coprime to their number, so no product occurs twice.
    """
    start = below(mix(data.basket_ids, 2 * seed), size)
    stride = _coprime(1 + below(mix(data.basket_ids, 2 * seed + 1), size - 1), size)
    trip, nth = spread(want + np.where(want > 0, taken, 0))  # at most `taken` of them turn out to be bought
    at = low[trip] + (start[trip] + nth * stride[trip]) % np.maximum(size[trip], 1)
    not_bought = ~_is_bought(data, trip, at)
    trip, at = trip[not_bought], at[not_bought]
    _, nth = spread(np.bincount(trip, minlength=len(size)))
    keep = nth < want[trip]
    return trip[keep], at[keep]


def _hard(data: Journey, shelf: Ints, low: Ints, size: Ints, want: Ints, seed: int) -> tuple[Ints, Ints]:
    """Half of what the household had bought before the trip, the rest by how often products had been sold before the week."""
    trips, ats = [], []
    sold = np.concatenate([[0], np.cumsum(data.sold_before(data.promotions) + 1)])
    for begin in range(0, len(want), _TRIPS):
        some = np.arange(begin, min(begin + _TRIPS, len(want)))
        again = _first_by_hash(data, *_bought_before(data, shelf, some), (want + 1) // 2, seed)
        popular = _by_popularity(data, sold, low, size, want, some, again, seed)
        trips += [again[0], popular[0]]
        ats += [again[1], popular[1]]
    return np.concatenate([np.zeros(0, np.int64), *trips]), np.concatenate([np.zeros(0, np.int64), *ats])


def _bought_before(data: Journey, shelf: Ints, trips: Ints) -> tuple[Ints, Ints]:
    """All promotions of each trip that its household had bought on an earlier trip, and not on this one."""
    household = data.trips["household"][trips]
    low = np.searchsorted(data.past.household, household, "left")
    nth_trip, nth = spread(np.searchsorted(data.past.household, household, "right") - low)
    place = low[nth_trip] + nth
    earlier = data.past.first[place] < data.trips["timestamp"][trips[nth_trip]]
    trip, product = trips[nth_trip[earlier]], data.past.product[place[earlier]]
    key = (shelf[trip] << PRODUCT_BITS) | product
    pool = data.promotions >> PLACE_BITS
    at = np.minimum(np.searchsorted(pool, key), max(len(pool) - 1, 0))
    there = pool[at] == key if len(pool) else np.zeros(len(key), bool)
    trip, at = trip[there], at[there]
    not_bought = ~_is_bought(data, trip, at)
    return trip[not_bought], at[not_bought]


def _first_by_hash(data: Journey, trip: Ints, at: Ints, want: Ints, seed: int) -> tuple[Ints, Ints]:
    """As many of each trip's promotions as it wants, those with the lowest hashes."""
    product = (data.promotions[at] >> PLACE_BITS) & _PRODUCT
    lot = mix(mix(data.basket_ids[trip], 2 * seed) ^ product.astype(np.uint64), 2 * seed + 1)
    order = np.lexsort((lot, trip))
    trip, at = trip[order], at[order]
    _, nth = spread(np.bincount(trip, minlength=len(want)))
    keep = nth < want[trip]
    return trip[keep], at[keep]


def _by_popularity(
    data: Journey,
    sold: Ints,
    low: Ints,
    size: Ints,
    want: Ints,
    trips: Ints,
    chosen: tuple[Ints, Ints],
    seed: int,
) -> tuple[Ints, Ints]:
    """What trips still want: drawn by how often products were sold before, none twice, none that was bought or chosen."""
    seen = np.sort(_pair(data, *chosen))
    left = want.copy()
    np.subtract.at(left, chosen[0], 1)
    out_trip, out_at = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for attempt in range(_ROUNDS + 1):
        open_ = trips[left[trips] > 0]
        if attempt < _ROUNDS:
            owner, nth = spread(left[open_])
            trip = open_[owner]
            lot = mix(mix(data.basket_ids[trip], 2 * seed + attempt * 1_000_003) + nth.astype(np.uint64), 2 * seed)
            weight = sold[low[trip]] + below(lot, sold[low[trip] + size[trip]] - sold[low[trip]])
            at = np.searchsorted(sold, weight, "right") - 1
        else:  # of shelves so small that draws keep repeating themselves: whatever they hold
            owner, nth = spread(size[open_])
            trip = open_[owner]
            at = low[trip] + nth
        key = _pair(data, trip, at)
        fresh = ~_is_bought(data, trip, at) & ~_contains(seen, key)
        fresh[fresh] = _first_of_each(key[fresh])
        trip, at = (
            _first_by_hash(data, trip[fresh], at[fresh], left, seed) if attempt == _ROUNDS else (trip[fresh], at[fresh])
        )
        seen = np.sort(np.concatenate([seen, _pair(data, trip, at)]))
        np.subtract.at(left, trip, 1)
        out_trip.append(trip)
        out_at.append(at)
    return np.concatenate(out_trip), np.concatenate(out_at)


def _pair(data: Journey, trip: Ints, at: Ints) -> Ints:
    """A trip and the row of a promotion as one number."""
    return trip * (len(data.promotions) + 1) + at


def _first_of_each(keys: Ints) -> NDArray[np.bool_]:
    first = np.zeros(len(keys), bool)
    first[np.unique(keys, return_index=True)[1]] = True
    return first


def _is_bought(data: Journey, trip: Ints, at: Ints) -> NDArray[np.bool_]:
    """Whether a trip's basket holds the product of a promotion."""
    bought = (data.bought_trip << PRODUCT_BITS) | data.bought_product
    return _contains(bought, (trip << PRODUCT_BITS) | ((data.promotions[at] >> PLACE_BITS) & _PRODUCT))


def _coprime(stride: Ints, size: Ints) -> Ints:
    stride = stride.copy()
    while (shares := (np.gcd(stride, size) > 1) & (size > 0)).any():
        stride[shares] = stride[shares] % size[shares] + 1
    return stride


def _contains(ordered: Ints, keys: Ints) -> NDArray[np.bool_]:
    at = np.searchsorted(ordered, keys)
    return ordered[np.minimum(at, len(ordered) - 1)] == keys if len(ordered) else np.zeros(len(keys), bool)
