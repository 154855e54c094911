"""`tokenlake.yaml`: names and meaning of the events' columns, and settings of everything computed from them.

A file is read by `Config.load`; environment variables such as `TOKENLAKE_CATALOG` or `TOKENLAKE_TOKENS__SERVING`
override single fields. Each block of the file has a module of its own.
"""

from tokenlake.config.counts import Count, CountColumn, Of
from tokenlake.config.embeddings import EMBEDDINGS, Embeddings, Filter, Filters, Retrieval
from tokenlake.config.events import Events, Feature, FeatureKind, Label
from tokenlake.config.model import Config
from tokenlake.config.models import Ensemble, Ranker, RankerSequence
from tokenlake.config.tokens import Encoder, Scheme, Tokens
from tokenlake.config.values import Duration, is_zone

FILE_NAME = "tokenlake.yaml"

__all__ = [
    "EMBEDDINGS",
    "FILE_NAME",
    "Config",
    "Count",
    "CountColumn",
    "Duration",
    "Embeddings",
    "Encoder",
    "Ensemble",
    "Events",
    "Feature",
    "FeatureKind",
    "Filter",
    "Filters",
    "Label",
    "Of",
    "Ranker",
    "RankerSequence",
    "Retrieval",
    "Scheme",
    "Tokens",
    "is_zone",
]
