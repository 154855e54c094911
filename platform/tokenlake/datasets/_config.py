"""The `tokenlake.yaml` of each data set."""

COMPLETE_JOURNEY = """\
# Complete Journey (84.51°) as an event log; docs/datasets.md tells how it is built and what it is good for.
project: grocery

# One file a day, written by `tokenlake datasets fetch complete-journey`; the daily ingest job reads them.
landing: landing/{ds}.parquet

events:
  user: household_id
  item: product_id
  timestamp: timestamp
  id: event_id
  features:
    # promo: on display or in the mailer of that store and week; organic: bought without either.
    kind: categorical
    store: categorical
    display: categorical
    mailer: categorical
    # Hour and weekday of the store's own clock.
    hour: categorical
    weekday: categorical
    # Campaigns that were sent to the household and run on that day.
    campaigns: multi
    department: {kind: categorical, of: item}
    category: {kind: categorical, of: item}
    brand: {kind: categorical, of: item}
    type: {kind: categorical, of: item}
    # Known of every third household.
    age: {kind: categorical, of: user}
    income: {kind: categorical, of: user}
    home_ownership: {kind: categorical, of: user}
    marital_status: {kind: categorical, of: user}
    household_size: {kind: categorical, of: user}
    household_comp: {kind: categorical, of: user}
    kids_count: {kind: categorical, of: user}
  labels:
    # 1 bought, 0 promoted in the store of that trip but not bought, null for an organic purchase: history only.
    bought: {}

# Counts of the past, strictly before each event (docs/counts.md). A purchase is one with a label or an organic one.
# Feast gets views of what has one key and no `serve: false`.
counts:
  user: {by: user, serve: false}
  item: {by: item, serve: false}
  user_bought: {by: user, of: {label: bought}, as: [mean, known], serve: false}
  item_bought: {by: item, of: {label: bought}, as: [mean, known], serve: false}
  type_bought: {by: type, of: {label: bought}, as: [mean, known], serve: false}
  user_purchases: {by: user, of: &purchases {where: [{label: bought}, {feature: kind, is: organic}]}, as: [count, recency]}
  item_purchases: {by: item, of: *purchases, as: [count, recency], windows: [all, 28d]}
  user_item_purchases: {by: [user, item], of: *purchases, as: [count, recency]}
  store_item_purchases: {by: [store, item], of: *purchases, as: [count, recency]}
  user_category_purchases: {by: [user, category], of: *purchases, as: [count, recency]}
  user_type_purchases: {by: [user, type], of: *purchases, as: [count, recency]}

tokens:
  # Two compressors of the same events; the first one serves. Sizes for two cores.
  encoders:
    iat:
      {scheme: user-order, counts: all, dim: 64, width: 128, embedding: 16, batch: 256, history: 63, sit_layers: 2, sit_heads: 4}
    iat-temporal: {scheme: temporal-order, counts: all, dim: 64, width: 128, embedding: 16, batch: 256}
  serving: iat
  dtype: float16
  chunk_days: 7

# User and item embeddings, and candidates by them (docs/retrieval.md). Groceries are bought again: nothing is left out.
embeddings:
  sources:
    bought: [{label: bought}, {feature: kind, is: organic}]
    offered: {feature: kind, is: promo}
  positive: [{label: bought}, {feature: kind, is: organic}]
  dim: 32
  width: 32
  history: 32
retrieval: {window: 90d, half_life: 28d, exclude_seen: false}

# A ranker of candidates: each day's is trained on the days before (docs/models.md).
models:
  ranker: {sequences: {past: {of: events, features: [item_id, type, category], length: 100}}}
"""

_MOVIELENS = """\
# MovieLens as an event log; docs/datasets.md tells how it is built and what it is good for.
project: movielens

# One file a day, written by `tokenlake datasets fetch movielens-100k`; the daily ingest job reads them.
landing: landing/{{ds}}.parquet

events:
  user: user_id
  item: movie_id
  timestamp: timestamp
  id: event_id
  features:
    genres: {{kind: multi, of: item}}
    year: {{kind: numeric, of: item}}
    decade: {{kind: categorical, of: item}}
{people}  labels:
    # 1 for a rating of 4 or more; the rating itself is no feature, it would tell.
    liked: {{}}

# Counts of the past, strictly before each rating (docs/counts.md).
counts:
  user: {{by: user, serve: false}}
  item: {{by: item, serve: false}}
  # Some rate strictly, some kindly; and so they do within an hour.
  user_liked: {{by: user, of: {{label: liked}}, as: [mean, known], windows: [all, 1d, 1h]}}
  item_liked: {{by: item, of: {{label: liked}}, as: [mean, known]}}
  genres_liked: {{by: genres, of: {{label: liked}}, as: [mean, known], serve: false}}
  user_genres_liked: {{by: [user, genres], of: {{label: liked}}, as: [mean, known]}}
  user_decade_genres_liked: {{by: [user, decade, genres], of: {{label: liked}}, as: [mean, known]}}
{people_counts}
tokens:
  # Two compressors of the same events; the first one serves. Sizes for two cores.
  encoders:
    iat:
      {{scheme: user-order, counts: all, dim: 64, width: 128, embedding: 16, batch: 256, history: 63, sit_layers: 2, sit_heads: 4}}
    iat-temporal: {{scheme: temporal-order, counts: all, dim: 64, width: 128, embedding: 16, batch: 256}}
  serving: iat
  dtype: float16
  chunk_days: 7

# User and item embeddings, and candidates by them (docs/retrieval.md).
embeddings:
  sources: {{ratings: all, liked: {{label: liked}}}}
  retention_days: 365

# A ranker of candidates: each day's is trained on the days before (docs/models.md).
models:
  ranker: {{sequences: {{past: {{of: events, features: [item_id, decade], length: 100}}}}}}
"""
_MOVIELENS_PEOPLE = """\
    age: {kind: categorical, of: user}
    gender: {kind: categorical, of: user}
    occupation: {kind: categorical, of: user}
"""
_MOVIELENS_PEOPLE_COUNTS = """\
  item_gender_liked: {by: [item, gender], of: {label: liked}, as: [mean, known]}
"""


def movielens(*, people: bool) -> str:
    """The file for a MovieLens release, with or without features of its users."""
    extra = {"people": _MOVIELENS_PEOPLE, "people_counts": _MOVIELENS_PEOPLE_COUNTS}
    return _MOVIELENS.format(**extra if people else dict.fromkeys(extra, ""))


ADS = """\
# A simulated log of ads; docs/datasets.md tells what is planted in it. What a log would not tell lies in truth/.
project: ads

# One file a day, written by `tokenlake simulate`; the daily ingest job reads them.
landing: landing/{ds}.parquet

events:
  user: user_id
  item: ad_id
  timestamp: shown_at
  id: impression_id
  features:
    hour: categorical
    device: {kind: categorical, of: user}
    # Topics that the user named when signing up.
    interests: {kind: multi, of: user}
    advertiser: {kind: categorical, of: item}
    category: {kind: categorical, of: item}
    image: {kind: vector, of: item}
    bid: numeric
  labels:
    clicked: {}
    # Known when it happens; that it did not happen is known after the window.
    converted: {known_at: converted_at, window: 7d}

# Counts of the past, strictly before each impression, and of labels that were known by then (docs/counts.md).
counts:
  user: {by: user, serve: false}
  item: {by: item, serve: false}
  user_clicked: {by: user, of: {label: clicked}, as: [mean, known]}
  item_clicked: {by: item, of: {label: clicked}, as: [mean, known]}
  item_converted: {by: item, of: {label: converted}, as: [mean, known], serve: false}
  user_item_clicked: {by: [user, item], of: {label: clicked}, as: [mean, known]}
  user_category: {by: [user, category], as: [count, recency]}
  user_category_clicked: {by: [user, category], of: {label: clicked}, as: [mean, known]}
  interests_category_clicked: {by: [interests, category], of: {label: clicked}, as: [mean, known]}
  advertiser_clicked: {by: advertiser, of: {label: clicked}, as: [mean, known], serve: false}
  advertiser_converted: {by: advertiser, of: {label: converted}, as: [mean, known], serve: false}

tokens:
  # Two compressors of the same events; the first one serves. Sizes for two cores.
  encoders:
    iat:
      {scheme: user-order, counts: all, dim: 64, width: 128, embedding: 16, batch: 256, history: 63, sit_layers: 2, sit_heads: 4}
    iat-temporal: {scheme: temporal-order, counts: all, dim: 64, width: 128, embedding: 16, batch: 256}
  serving: iat
  dtype: float16
  chunk_days: 7

# User and item embeddings, and candidates by them (docs/retrieval.md); images enter as semantic ids.
embeddings:
  sources: {shown: all, clicked: {label: clicked}}
retrieval: {exclude_seen: false}

# A ranker of candidates: each day's is trained on the days before (docs/models.md).
models:
  ranker: {sequences: {past: {of: events, features: [item_id, category, advertiser], length: 100}}}
"""
