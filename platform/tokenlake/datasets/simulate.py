"""An ads-like log of any size: impressions, clicks and late conversions (docs/datasets.md).

A day depends on its own random numbers and on two states: the users' interests, which drift from day to day, and the
topics that each user clicked on each of the last 32 days. So memory holds these states and one day of events.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenlake.datasets import _world
from tokenlake.datasets._config import ADS
from tokenlake.datasets._output import TRUTH, DatasetReport, Output
from tokenlake.datasets._world import DIM, HOUR_US, SERVED, Floats, Ints, World
from tokenlake.errors import SchemaError
from tokenlake.progress import Progress
from tokenlake.times import DAY_US, Day, DayLike, as_day, day_start

NAME = "simulated"
#: Increased whenever the same options give another log.
REVISION = 1
WINDOW_US = 7 * DAY_US
#: Number of days of stored clicks, one bit each.
_MEMORY = 32
BLOCK_ROWS = 1 << 17
_INTERCEPT, _AFFINITY, _FOLLOW_UP = -3.4, 2.2, 2.2
_DEVICES = ("phone", "desktop", "tablet", "tv")
_HOURS = np.array([2, 1, 1, 1, 1, 2, 3, 5, 6, 6, 6, 6, 7, 6, 6, 6, 6, 7, 8, 9, 10, 9, 7, 4], float)
_WEEKDAYS = np.array([1.0, 1.0, 1.0, 1.0, 1.1, 1.3, 1.25])


def simulate(
    out: Path | str,
    users: int = 1_000,
    items: int = 500,
    days: int = 30,
    events: int = 100_000,
    seed: int = 0,
    start: DayLike = "2024-01-01",
    progress: Progress | None = None,
) -> DatasetReport:
    """Write the log: `landing/<day>.parquet`, `tokenlake.yaml`, and `truth/` with data that a real log would not have.

    The same arguments give the same files, with the same version of NumPy on the same kind of processor.

    Args:
        out: folder to write to; a folder that already holds the same data set is not changed.
        users: number of users; the least active ones may get no event.
        items: number of ads; some start late or end early.
        days: number of days, from `start` on.
        events: impressions in total.
        seed: of all random numbers, 0 or more.
        start: the first day.
        progress: called after each written day.

    Returns:
        A report on the folder's content; `counts` has the clicks and conversions.

    Raises:
        SchemaError: an argument out of range.
        SourceError: `out` holds other files.
    """
    first = as_day(start)
    sizes = {"users": users, "items": items, "days": days, "events": events}
    if low := {name: size for name, size in sizes.items() if size < 1} | ({"seed": seed} if seed < 0 else {}):
        raise SchemaError(f"{low} given; expected at least 1 of each, and a seed of 0 or more")
    if first > dt.date(2099, 12, 31) - dt.timedelta(days=days):
        raise SchemaError(f"{days} days from {first} end after 2099; give fewer, or an earlier start")
    options = {"revision": REVISION, **sizes, "seed": seed, "start": str(first)}
    output = Output(Path(out), NAME, options)
    if (done := output.finished()) is not None:
        return done
    output.start()
    return _write(output, World.make(seed, users, items, days), first, _per_day(first, days, events), progress)


def _per_day(first: Day, days: int, events: int) -> Ints:
    """Events of each day: weekends are busier, and the sum is exact."""
    weight = _WEEKDAYS[(first.weekday() + np.arange(days)) % 7]
    edges = np.floor(np.cumsum(weight) / weight.sum() * events + 0.5).astype(np.int64)
    per_day: Ints = np.diff(edges, prepend=0)
    return per_day


def _write(output: Output, world: World, first: Day, per_day: Ints, progress: Progress | None) -> DatasetReport:
    tell = progress or (lambda what, done, total: None)
    columns = _Columns(world)
    latent = world.users.latent
    clicked = np.zeros((len(world.users.bias), len(world.centers)), np.uint32)
    seen_user, seen_ad = np.zeros(len(latent), bool), np.zeros(len(world.ads.topic), bool)
    clicks = conversions = number = 0
    for index, size in enumerate(per_day.tolist()):
        if size:
            date = first + dt.timedelta(days=index)
            day = _draw(world, latent, clicked, index, day_start(date), size)
            output.write_day(date, columns.log(day, number))
            output.write_day(date, columns.truth(day, number), TRUTH)
            _remember(clicked, day, world)
            seen_user[day.user] = seen_ad[day.ad] = True
            clicks += int(day.clicked.sum())
            conversions += int(day.converted.sum())
            number += size
        clicked <<= np.uint32(1)
        latent = world.drift(latent, index)
        tell("write", index + 1, len(per_day))
    for file, table in columns.world(latent).items():
        output.write(f"{TRUTH}/{file}.parquet", [table])
    counts = {"clicked": clicks, "converted": conversions}
    return output.finish(ADS, users=int(seen_user.sum()), items=int(seen_ad.sum()), counts=counts)


# ---- one day


@dataclass(frozen=True)
class _Day:
    """One day's impressions, in time order."""

    user: NDArray[np.int32]
    ad: NDArray[np.int32]
    timestamp: Ints
    bid: Floats
    p_click: Floats
    #: A click of 7 to 21 days ago made this ad attractive.
    followed_up: NDArray[np.bool_]
    clicked: NDArray[np.bool_]
    converted: NDArray[np.bool_]
    converted_at: Ints


def _draw(world: World, latent: Floats, history: NDArray[np.uint32], index: int, midnight: int, size: int) -> _Day:
    rng = _world.stream(world.seed, _world.DAY, index)
    user, timestamp = _visits(rng, world, midnight, size)
    ad = _serve(rng, world, latent, user, index)
    topic = world.ads.topic[ad]

    days_back = np.uint32(sum(1 << back for back in range(world.lag, min(world.until, _MEMORY - 1) + 1)))
    followed_up = (history[user, world.leads_to[topic]] & days_back) != 0
    affinity = np.einsum("nd,nd->n", latent[user], world.ads.latent[ad])
    logit = (
        _INTERCEPT + _AFFINITY * affinity + _FOLLOW_UP * followed_up + world.users.bias[user] + world.ads.quality[ad]
    )
    p_click = _sigmoid(logit)
    clicked = rng.random(size) < p_click

    payer = world.ads.advertiser[ad]
    p_convert = _sigmoid(world.advertisers.rate[payer] + affinity)
    hours = world.advertisers.scale_hours[payer] * rng.standard_exponential(size) ** (
        1 / world.advertisers.shape[payer]
    )
    # At least a second after the impression.
    delay = 1_000_000 + np.minimum(hours * HOUR_US, 2 * WINDOW_US).astype(np.int64)
    # A conversion after the window is not attributed: it counts as none.
    converted = clicked & (rng.random(size) < p_convert) & (delay <= WINDOW_US)
    bid = np.round(world.ads.bid[ad] * np.exp(0.2 * rng.standard_normal(size, np.float32)), 4)
    return _Day(user, ad, timestamp, bid, p_click, followed_up, clicked, converted, timestamp + delay)


def _visits(rng: np.random.Generator, world: World, midnight: int, size: int) -> tuple[NDArray[np.int32], Ints]:
    """Users and times of impressions: visits of four impressions on average, a few minutes long."""
    visits = size // 4 + 1
    activity = world.users.activity
    visitor = np.searchsorted(activity, rng.random(visits) * activity[-1], "right").astype(np.int32)
    hour = rng.choice(24, visits, p=_HOURS / _HOURS.sum())
    begin = ((hour + rng.random(visits)) * HOUR_US).astype(np.int64)
    visit = rng.integers(0, visits, size)
    timestamp = begin[visit] + (rng.standard_exponential(size, np.float32) * 180e6).astype(np.int64)
    timestamp = np.where(timestamp < DAY_US, timestamp, np.maximum(2 * DAY_US - 1 - timestamp, 0))  # folded at midnight
    order = np.argsort(timestamp, kind="stable")
    return visitor[visit[order]], midnight + timestamp[order]


def _serve(
    rng: np.random.Generator, world: World, latent: Floats, user: NDArray[np.int32], index: int
) -> NDArray[np.int32]:
    """The ad of each impression: half of them by popularity, half from the user's favourite topics of the day."""
    ads = world.ads
    running = (ads.first_day <= index) & (index <= ads.last_day)
    weight = np.cumsum(np.where(running, ads.popularity, 0.0))
    begins = np.searchsorted(ads.topic, np.arange(len(world.centers)))
    low = np.append(0.0, weight)[begins]
    high = np.append(low[1:], weight[-1])

    who, user_row = np.unique(user, return_inverse=True)
    likes = latent[who] @ world.centers.T
    served = min(SERVED, likes.shape[1])
    top = np.argpartition(likes, -served, axis=1)[:, -served:].astype(np.int8)
    topic = top[user_row, rng.integers(0, served, len(user))]
    by_topic = rng.random(len(user)) < 0.5
    place = rng.random(len(user))
    place = np.where(by_topic, low[topic] + place * (high - low)[topic], place * weight[-1])
    ad: NDArray[np.int32] = np.minimum(np.searchsorted(weight, place, "right"), len(weight) - 1).astype(np.int32)
    return ad


def _sigmoid(x: Floats) -> Floats:
    p: Floats = np.reciprocal(1 + np.exp(-x), dtype=np.float32)
    return p


def _remember(history: NDArray[np.uint32], day: _Day, world: World) -> None:
    """Set today's bit of each clicked (user, topic)."""
    history[day.user[day.clicked], world.ads.topic[day.ad[day.clicked]]] |= np.uint32(1)


# ---- columns


class _Columns:
    """Converts days to Arrow tables, a block of rows at a time."""

    def __init__(self, world: World) -> None:
        self._world = world
        named = world.users.named
        offsets = np.arange(len(named) + 1, dtype=np.int32) * 2
        topics = pa.array([f"topic-{i:02}" for i in range(len(world.centers))])
        self._interests = pa.ListArray.from_arrays(pa.array(offsets), topics.take(pa.array(named.ravel())))
        self._device = pa.array(_DEVICES).take(pa.array(world.users.device))
        self._category = topics.take(pa.array(world.ads.topic))

    def log(self, day: _Day, number: int) -> Iterator[pa.Table]:
        """The log of an ad server; `number` is the first impression's id."""
        for rows in _blocks(day):
            user, ad, timestamp = day.user[rows], day.ad[rows], day.timestamp[rows]
            user_rows, ad_rows, converted = pa.array(user), pa.array(ad), day.converted[rows]
            utc = pa.timestamp("us", "UTC")
            columns = {
                "impression_id": _ids(number, rows),
                "user_id": pa.array(user.astype(np.int64)),
                "ad_id": pa.array(ad.astype(np.int64)),
                "shown_at": pa.array(timestamp, utc),
                "hour": pa.array(timestamp // HOUR_US % 24),
                "device": self._device.take(user_rows),
                "interests": self._interests.take(user_rows),
                "advertiser": pa.array(self._world.ads.advertiser[ad].astype(np.int64)),
                "category": self._category.take(ad_rows),
                "image": _vectors(self._world.ads.content[ad]),
                "bid": pa.array(day.bid[rows].astype(np.float64)),
                "clicked": pa.array(day.clicked[rows].astype(np.int8)),
                "converted": pa.array(converted.astype(np.int8)),
                "converted_at": pa.array(day.converted_at[rows], utc, mask=~converted),
            }
            yield pa.table(columns)

    def truth(self, day: _Day, number: int) -> Iterator[pa.Table]:
        """The hidden variables of each impression."""
        for rows in _blocks(day):
            columns = {
                "impression_id": _ids(number, rows),
                "p_click": pa.array(day.p_click[rows]),
                "followed_up": pa.array(day.followed_up[rows]),
            }
            yield pa.table(columns)

    def world(self, latent: Floats) -> dict[str, pa.Table]:
        """The hidden variables of users, ads, advertisers and topics."""
        users, ads, payers = self._world.users, self._world.ads, self._world.advertisers
        return {
            "users": pa.table(
                {
                    "user_id": np.arange(len(users.bias)),
                    "activity": np.diff(users.activity, prepend=0.0),
                    "bias": users.bias,
                    "first_latent": _vectors(users.latent),
                    "last_latent": _vectors(latent),
                }
            ),
            "ads": pa.table(
                {
                    "ad_id": np.arange(len(ads.topic)),
                    "topic": ads.topic,
                    "popularity": ads.popularity,
                    "quality": ads.quality,
                    "latent": _vectors(ads.latent),
                }
            ),
            "advertisers": pa.table(
                {
                    "advertiser": np.arange(len(payers.rate)),
                    "rate": payers.rate,
                    "scale_hours": payers.scale_hours,
                    "shape": payers.shape,
                }
            ),
            "topics": pa.table(
                {
                    "topic": np.arange(len(self._world.centers)),
                    "follow_up": self._world.follow_up,
                    "center": _vectors(self._world.centers),
                }
            ),
        }


def _blocks(day: _Day) -> Iterator[slice]:
    for begin in range(0, len(day.user), BLOCK_ROWS):
        yield slice(begin, min(begin + BLOCK_ROWS, len(day.user)))


def _ids(number: int, rows: slice) -> pa.Array:
    return pa.array(np.arange(number + rows.start, number + rows.stop))


def _vectors(values: Floats) -> pa.ListArray:
    offsets = np.arange(len(values) + 1, dtype=np.int32) * DIM
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(values).ravel()))
