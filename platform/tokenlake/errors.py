"""Every error that Tokenlake raises on purpose.

    TokenlakeError
    ├── TerminalError            retrying does not help: correct the input, the config or the code
    │   ├── ConfigError          tokenlake.yaml, or another setting, is not valid
    │   ├── SchemaError          data of the wrong shape, type or range (also a ValueError)
    │   ├── SourceError          a source that cannot be read at all
    │   │   ├── MissingSourceError   a source that does not exist (also a NotFoundError)
    │   │   └── DamagedSourceError   a file of another format, or a truncated or damaged one (also a CorruptionError)
    │   ├── NotFoundError        a day, version, checkpoint or artefact that does not exist (also a LookupError)
    │   ├── VersionError         artefacts of different identities would have been mixed
    │   ├── CorruptionError      bytes on disk that are not what was written; names the file
    │   ├── TrainingError        a model or index that cannot be trained on these events, or a loss that is NaN or infinite
    │   ├── ForbiddenError       SQL that would write or read outside the lake
    │   └── MissingExtraError    an optional dependency is not installed (also an ImportError)
    └── TransientError           the same call may succeed later: a scheduler should retry
        ├── LockedError          another process holds the lock
        ├── OrderError           an earlier day is not done yet
        ├── ConflictError        a concurrent commit won
        ├── ChangedError         a source was written while it was read
        ├── StorageError         the disk is full, read-only or missing
        └── ServiceError         a service, such as Airflow's, is down or does not answer

Each message says what was given, what was expected and what to do.
"""


class TokenlakeError(Exception):
    """Base of all errors raised on purpose."""


class TerminalError(TokenlakeError):
    """Retrying the same call cannot help."""


class TransientError(TokenlakeError):
    """Retrying the same call later may help."""


class ConfigError(TerminalError):
    """The configuration is not valid."""


class SchemaError(TerminalError, ValueError):
    """Data of the wrong shape, type or range."""


class SourceError(TerminalError):
    """A source that cannot be read at all."""


class NotFoundError(TerminalError, LookupError):
    """A day, version, checkpoint or artefact that does not exist."""


class VersionError(TerminalError):
    """Artefacts of different encoder versions would have been mixed."""


class CorruptionError(TerminalError):
    """Bytes on disk that are not what was written; the message names the file."""


class MissingSourceError(SourceError, NotFoundError):
    """A source that does not exist."""


class DamagedSourceError(SourceError, CorruptionError):
    """A file of another format, or a truncated or damaged one; the message names it."""


class TrainingError(TerminalError):
    """A model or index that cannot be trained as configured, or a loss that is NaN or infinite."""


class ForbiddenError(TerminalError):
    """SQL that would write, or read outside the lake."""


class MissingExtraError(TerminalError, ImportError):
    """An optional dependency is not installed; the message names the extra."""


class LockedError(TransientError):
    """Another process holds the lock."""


class OrderError(TransientError):
    """A job ran before the jobs that it depends on."""


class ConflictError(TransientError):
    """A concurrent commit to the same place won."""


class ChangedError(TransientError):
    """A source kept changing while it was read."""


class StorageError(TransientError):
    """The disk is full, read-only or missing; the message names what was being written."""


class ServiceError(TransientError):
    """A service, such as Airflow's, is down or does not answer."""


def storage_error(error: OSError) -> StorageError:
    """Turn an error of the operating system into a `StorageError` that names the file."""
    place = f"{error.filename}: " if error.filename is not None else ""
    return StorageError(f"{place}{error.strerror or error}; check the disk's space and rights, then do the same again")


#: Optional package -> the extra of `tokenlake` that installs it; dependencies of these packages are not listed.
_EXTRAS = {
    "torch": "train",
    "triton": "train",
    "safetensors": "train",
    "jaxtyping": "train",
    "faiss": "cpu",
    "networkx": "cpu",
    "feast": "feast",
    "lightgbm": "peers",
    "airflow": "airflow",
    "httpx": "airflow",
    "psutil": "airflow",
    "redis": "redis",
}


def missing_extra(error: ModuleNotFoundError) -> MissingExtraError | None:
    """Turn a failed import into an error that says how to install the package; None if it is not an optional package."""
    package = (error.name or "").partition(".")[0]
    if package not in _EXTRAS:
        return None
    extra = _EXTRAS[package]
    either = " (or `[gpu]`)" if extra == "cpu" else ""
    return MissingExtraError(f"{package} is not installed; `pip install 'tokenlake[{extra}]'`{either} brings it")
