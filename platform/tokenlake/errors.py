"""Every error that Tokenlake raises on purpose.

    TokenlakeError
    ├── TerminalError            retrying changes nothing: mend the input, the config or the code
    │   ├── ConfigError          tokenlake.yaml says something that cannot be
    │   ├── SchemaError          data of the wrong shape, type or range (also a ValueError)
    │   ├── SourceError          a source that cannot be read at all
    │   │   ├── MissingSourceError   nothing lies there (also a NotFoundError)
    │   │   └── DamagedSourceError   no file of its kind, or one that was cut or damaged (also a CorruptionError)
    │   ├── NotFoundError        a day, version, checkpoint or artefact that does not exist (also a LookupError)
    │   ├── VersionError         artefacts of different identities would have been mixed
    │   ├── CorruptionError      bytes on disk that are not what was written; names the file
    │   ├── TrainingError        a model or index that cannot be made of these events, or whose loss is no number
    │   ├── ForbiddenError       SQL that would write or read outside the lake
    │   └── MissingExtraError    an optional dependency is not installed (also an ImportError)
    └── TransientError           the same call may go through later: a scheduler should retry
        ├── LockedError          another process holds the lock
        ├── OrderError           an earlier day is not done yet
        ├── ConflictError        a concurrent commit won
        ├── ChangedError         a source was written while it was read
        ├── StorageError         the disk refused: full, read-only or gone
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
    """The configuration says something that cannot be."""


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
    """Nothing lies where a source was said to be."""


class DamagedSourceError(SourceError, CorruptionError):
    """A file that is not of its kind, or was cut or damaged; the message names it."""


class TrainingError(TerminalError):
    """A model or an index that cannot be made as the config says, or whose loss stopped being a number."""


class ForbiddenError(TerminalError):
    """SQL that would write, or read outside the lake."""


class MissingExtraError(TerminalError, ImportError):
    """An optional dependency is not installed; the message names the extra."""


class LockedError(TransientError):
    """Another process holds the lock."""


class OrderError(TransientError):
    """A job came before the jobs that it depends on."""


class ConflictError(TransientError):
    """A concurrent commit to the same place won."""


class ChangedError(TransientError):
    """A source was written while it was read, again and again."""


class StorageError(TransientError):
    """The disk refused: full, read-only or gone; the message names what was being written."""


class ServiceError(TransientError):
    """A service, such as Airflow's, is down or does not answer."""


def storage_error(error: OSError) -> StorageError:
    """What the operating system said, as an error of ours that names the file."""
    place = f"{error.filename}: " if error.filename is not None else ""
    return StorageError(f"{place}{error.strerror or error}; check the disk's space and rights, then do the same again")


#: The extra of `tokenlake` that brings a package; the packages that only come with others are left to these.
_EXTRAS = {
    "torch": "train",
    "triton": "train",
    "safetensors": "train",
    "jaxtyping": "train",
    "faiss": "cpu",
    "networkx": "cpu",
    "feast": "feast",
    "airflow": "airflow",
    "httpx": "airflow",
    "psutil": "airflow",
    "redis": "redis",
}


def missing_extra(error: ModuleNotFoundError) -> MissingExtraError | None:
    """What was not found, as an error that says how to install it; None for what is no optional package of ours."""
    package = (error.name or "").partition(".")[0]
    if package not in _EXTRAS:
        return None
    extra = _EXTRAS[package]
    either = " (or `[gpu]`)" if extra == "cpu" else ""
    return MissingExtraError(f"{package} is not installed; `pip install 'tokenlake[{extra}]'`{either} brings it")
