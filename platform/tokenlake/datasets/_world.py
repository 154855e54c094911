"""The hidden state of the simulation: users, ads, and the users' interests on each day."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Width of the latent vectors, and of an ad's content vector.
DIM = 16
TOPICS = 24
#: Correlation of a user's interests from one day to the next.
DRIFT = 0.985
#: Number of a user's favourite topics of the day from which ads are served.
SERVED = 4
HOUR_US = 3_600_000_000

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

# One independent random stream per purpose and day.
_WORLD, _DRIFT, DAY = 0, 1, 2


def stream(seed: int, purpose: int, day: int = 0) -> np.random.Generator:
    """A random generator for one purpose and day, independent of all others."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, purpose, day])))


@dataclass(frozen=True)
class Ads:
    """The items. Ads of one topic have consecutive numbers."""

    topic: NDArray[np.int8]
    latent: Floats
    #: What the log shows of `latent`: rotated, with noise.
    content: Floats
    quality: Floats
    popularity: NDArray[np.float64]
    bid: Floats
    advertiser: NDArray[np.int32]
    first_day: NDArray[np.int32]
    last_day: NDArray[np.int32]


@dataclass(frozen=True)
class Advertisers:
    """The advertisers: conversion rate of clicks, and the delay's Weibull distribution (shape 1 is exponential)."""

    rate: Floats
    scale_hours: Floats
    shape: Floats


@dataclass(frozen=True)
class Users:
    """The users; `latent` is their interests on the first day."""

    #: Running sum of activity, for drawing users in proportion.
    activity: NDArray[np.float64]
    bias: Floats
    latent: Floats
    device: NDArray[np.int8]
    #: The two topics that each user named at sign-up; they become outdated as interests drift.
    named: NDArray[np.int8]


@dataclass(frozen=True)
class World:
    """The complete state for one seed."""

    seed: int
    users: Users
    ads: Ads
    advertisers: Advertisers
    centers: Floats
    #: A click on topic t makes `follow_up[t]` attractive `lag` to `until` days later.
    follow_up: NDArray[np.int8]
    lag: int
    until: int

    @classmethod
    def make(cls, seed: int, users: int, items: int, days: int) -> World:
        """Draw a world: the same one for the same arguments."""
        rng = stream(seed, _WORLD)
        topics = min(TOPICS, items)
        centers = _unit(rng.standard_normal((topics, DIM)))
        order = rng.permutation(topics)
        follow_up = np.empty(topics, np.int8)
        follow_up[order] = np.roll(order, -1)
        lag = min(max(days // 4, 1), 7)
        return cls(
            seed=seed,
            users=_users(rng, users, centers),
            ads=_ads(rng, items, days, centers),
            advertisers=_advertisers(rng, _advertiser_count(items)),
            centers=centers,
            follow_up=follow_up,
            lag=lag,
            until=3 * lag,
        )

    @property
    def leads_to(self) -> NDArray[np.int8]:
        """The inverse of `follow_up`: the topic whose clicks make topic t attractive."""
        return np.argsort(self.follow_up).astype(np.int8)

    def drift(self, latent: Floats, day: int) -> Floats:
        """Interests of the next day: an AR(1) step that keeps their spread."""
        noise = stream(self.seed, _DRIFT, day).standard_normal(latent.shape, np.float32)
        return np.float32(DRIFT) * latent + np.float32(np.sqrt((1 - DRIFT**2) / DIM)) * noise


def _unit(x: NDArray[np.float64]) -> Floats:
    unit: Floats = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _users(rng: np.random.Generator, count: int, centers: Floats) -> Users:
    liked = rng.integers(0, len(centers), (count, 3))
    latent = centers[liked[:, 0]] + centers[liked[:, 1]] * 0.7
    latent += rng.standard_normal(latent.shape, np.float32) * np.float32(0.5 / np.sqrt(DIM))
    named = np.where(rng.random((count, 2)) < 0.8, liked[:, :2], liked[:, 2:])
    return Users(
        activity=np.cumsum(np.exp(1.3 * rng.standard_normal(count))),
        bias=0.4 * rng.standard_normal(count, np.float32),
        latent=_unit(latent.astype(np.float64)),
        device=rng.choice(4, count, p=[0.55, 0.3, 0.1, 0.05]).astype(np.int8),
        named=named.astype(np.int8),
    )


def _ads(rng: np.random.Generator, count: int, days: int, centers: Floats) -> Ads:
    topics = len(centers)
    # Every topic has at least one ad; the others are random.
    topic = np.sort(np.concatenate([np.arange(topics), rng.integers(0, topics, count - topics)])).astype(np.int8)
    latent = centers[topic] + rng.standard_normal((count, DIM), np.float32) * np.float32(0.6 / np.sqrt(DIM))
    latent = _unit(latent.astype(np.float64))
    rotation = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0].astype(np.float32)
    content = latent @ rotation + rng.standard_normal((count, DIM), np.float32) * np.float32(0.4 / np.sqrt(DIM))
    first_day = np.where(rng.random(count) < 0.5, 0, rng.integers(0, days, count))
    last_day = np.where(rng.random(count) < 0.5, days, first_day + rng.integers(3, days + 4, count))
    always = np.append(True, topic[1:] != topic[:-1])  # each topic's first ad runs throughout, so none is ever empty
    return Ads(
        topic=topic,
        latent=latent,
        content=content.astype(np.float32),
        quality=0.5 * rng.standard_normal(count, np.float32),
        popularity=np.power(1.0 + rng.permutation(count), -0.8),
        bid=np.exp(0.5 * rng.standard_normal(count, np.float32) - 0.5),
        advertiser=rng.integers(0, _advertiser_count(count), count).astype(np.int32),
        first_day=np.where(always, 0, first_day).astype(np.int32),
        last_day=np.where(always, days, last_day).astype(np.int32),
    )


def _advertiser_count(items: int) -> int:
    return max(1, items // 20)


def _advertisers(rng: np.random.Generator, count: int) -> Advertisers:
    return Advertisers(
        rate=(-2.2 + 0.7 * rng.standard_normal(count)).astype(np.float32),
        scale_hours=np.exp(rng.uniform(np.log(1), np.log(72), count)).astype(np.float32),
        shape=np.where(rng.random(count) < 0.5, 1.0, rng.uniform(0.6, 1.8, count)).astype(np.float32),
    )
