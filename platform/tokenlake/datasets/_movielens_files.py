"""Readers of all published MovieLens formats; each returns the same three tables."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from tokenlake.errors import SourceError

#: Opens one file of the data set by name; None if it is missing.
Opener: TypeAlias = Callable[[str], IO[bytes] | None]

_GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
_NO_GENRE = {"unknown", "(no genres listed)", ""}
_AGES = ((56, "56+"), (50, "50-55"), (45, "45-49"), (35, "35-44"), (25, "25-34"), (18, "18-24"), (0, "under 18"))
_OCCUPATIONS_1M = (
    "other", "academic/educator", "artist", "clerical/admin", "college/grad student", "customer service",
    "doctor/health care", "executive/managerial", "farmer", "homemaker", "K-12 student", "lawyer", "programmer",
    "retired", "sales/marketing", "scientist", "self-employed", "technician/engineer", "tradesman/craftsman",
    "unemployed", "writer",
)  # fmt: skip


@dataclass(frozen=True)
class Film:
    """Attributes of a film: the year in its title, or None, and its genres."""

    year: int | None
    genres: tuple[str, ...]

    @property
    def decade(self) -> str | None:
        """The decade, such as `1990s`."""
        return None if self.year is None else f"{self.year // 10 * 10}s"


@dataclass(frozen=True)
class Person:
    """Attributes of a user; the age is a bucket."""

    age: str
    gender: str
    occupation: str


@dataclass(frozen=True)
class MovieLens:
    """One release: rating i was given by users[i] to films[i] at seconds[i] (UTC)."""

    users: NDArray[np.int32]
    films: NDArray[np.int32]
    ratings: NDArray[np.float32]
    seconds: NDArray[np.int64]
    film: dict[int, Film]
    #: Empty for releases without attributes of users.
    person: dict[int, Person]


def read(source: Path) -> MovieLens:
    """Read a zip (or wheel) or folder of ml-100k, ml-1m, ml-10m, ml-20m, ml-25m or later.

    Raises:
        SourceError: it holds none of these releases, or a file has a wrong format.
    """
    with _opened(source) as (ratings_name, open_file):
        layout = _LAYOUTS[ratings_name]
        try:
            users, films, ratings, seconds = layout.ratings(_need(open_file, ratings_name, source))
            film = dict(layout.films(_need(open_file, layout.film_file, source)))
            people = open_file(layout.person_file) if layout.person_file else None
            person = dict(layout.people(people)) if people else {}
        except (pa.ArrowInvalid, ValueError, IndexError, KeyError, zipfile.BadZipFile) as error:
            raise SourceError(f"{source} is not a MovieLens release as GroupLens has it: {error}") from error
    if not len(ratings) or ratings.min() < 0.5 or ratings.max() > 5:
        raise SourceError(f"{source}: {ratings_name} should hold ratings from 0.5 to 5; it holds something else")
    return MovieLens(users, films, ratings, seconds, film, person)


@contextmanager
def _opened(source: Path) -> Iterator[tuple[str, Opener]]:
    """Yield the name of the ratings file, and a function that opens other files of its folder."""
    if source.is_dir():
        folders = [source, *sorted(path for path in source.iterdir() if path.is_dir())]
        yield _first([path.as_posix() for folder in folders for path in folder.iterdir()], source, _open_path)
    elif zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            yield _first(archive.namelist(), source, archive.open)
    else:
        raise SourceError(f"{source} is neither a folder nor a zip; expected a MovieLens release")


def _open_path(path: str) -> IO[bytes]:
    return Path(path).open("rb")


def _first(paths: list[str], source: Path, open_path: Callable[[str], IO[bytes]]) -> tuple[str, Opener]:
    """Find the release among paths with forward slashes; the shallowest one if there are several."""
    found = sorted((path.count("/"), path) for path in paths if path.rpartition("/")[2] in _LAYOUTS)
    if not found:
        raise SourceError(f"{source} holds no MovieLens release: none of {sorted(_LAYOUTS)} is in it")
    name = found[0][1].rpartition("/")[2]
    prefix = found[0][1].removesuffix(name)
    known = set(paths)
    return name, lambda file: open_path(prefix + file) if prefix + file in known else None


def _need(open_file: Opener, name: str, source: Path) -> IO[bytes]:
    file = open_file(name)
    if file is None:
        raise SourceError(f"{source} lacks {name}, which lies beside the ratings in a whole release")
    return file


# ---- ratings


_Ratings: TypeAlias = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]
# Narrow types: the largest release has 32 million rows.
_RATING_TYPES = {"user": pa.int32(), "film": pa.int32(), "rating": pa.float32(), "seconds": pa.int64()}


def _delimited(file: IO[bytes], delimiter: str, *, header: bool) -> _Ratings:
    with file:
        table = pyarrow.csv.read_csv(
            file,
            read_options=pyarrow.csv.ReadOptions(column_names=list(_RATING_TYPES), skip_rows=int(header)),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter),
            convert_options=pyarrow.csv.ConvertOptions(column_types=_RATING_TYPES, null_values=[]),
        )
    user, film, rating, seconds = (table[name].to_numpy() for name in _RATING_TYPES)
    return user, film, rating, seconds


def _ratings_tab(file: IO[bytes]) -> _Ratings:
    return _delimited(file, "\t", header=False)


def _ratings_atomic(file: IO[bytes]) -> _Ratings:
    return _delimited(file, "\t", header=True)


def _ratings_csv(file: IO[bytes]) -> _Ratings:
    return _delimited(file, ",", header=True)


def _ratings_dat(file: IO[bytes]) -> _Ratings:
    with file:
        return _delimited(io.BytesIO(file.read().replace(b"::", b"\t")), "\t", header=False)


# ---- films and people: small files, read line by line


def _lines(file: IO[bytes], encoding: str, delimiter: str) -> Iterator[list[str]]:
    with io.TextIOWrapper(file, encoding=encoding) as text:
        yield from (line.rstrip("\r\n").split(delimiter) for line in text if line.strip())


def _film(title: str, genres: list[str]) -> Film:
    years = re.findall(r"\((\d{4})\)", title)
    return Film(int(years[-1]) if years else None, tuple(g for g in genres if g not in _NO_GENRE))


def _films_100k(file: IO[bytes]) -> Iterator[tuple[int, Film]]:
    for number, title, *rest in _lines(file, "latin-1", "|"):
        flags = rest[-len(_GENRES_100K) :]
        yield int(number), _film(title, [g for g, flag in zip(_GENRES_100K, flags, strict=True) if flag == "1"])


def _films_atomic(file: IO[bytes]) -> Iterator[tuple[int, Film]]:
    lines = _lines(file, "utf-8", "\t")
    next(lines)
    for number, title, year, genres in lines:
        yield int(number), _film(f"{title} ({year})", genres.split(" "))


def _films_dat(file: IO[bytes]) -> Iterator[tuple[int, Film]]:
    for number, title, genres in _lines(file, "latin-1", "::"):
        yield int(number), _film(title, genres.split("|"))


def _films_csv(file: IO[bytes]) -> Iterator[tuple[int, Film]]:
    with io.TextIOWrapper(file, encoding="utf-8", newline="") as text:
        for row in csv.DictReader(text):
            yield int(row["movieId"]), _film(row["title"], row["genres"].split("|"))


def _age(years: str) -> str:
    return next(bucket for least, bucket in _AGES if int(years) >= least)


def _people_100k(file: IO[bytes]) -> Iterator[tuple[int, Person]]:
    for number, age, gender, occupation, _ in _lines(file, "latin-1", "|"):
        yield int(number), Person(_age(age), gender, occupation)


def _people_atomic(file: IO[bytes]) -> Iterator[tuple[int, Person]]:
    lines = _lines(file, "utf-8", "\t")
    next(lines)
    for number, age, gender, occupation, _ in lines:
        yield int(number), Person(_age(age), gender, occupation)


def _people_1m(file: IO[bytes]) -> Iterator[tuple[int, Person]]:
    for number, gender, age, occupation, _ in _lines(file, "latin-1", "::"):
        yield int(number), Person(_age(age), gender, _OCCUPATIONS_1M[int(occupation)])


def _no_people(file: IO[bytes]) -> Iterator[tuple[int, Person]]:
    file.close()
    return iter(())


@dataclass(frozen=True)
class _Layout:
    ratings: Callable[[IO[bytes]], _Ratings]
    film_file: str
    films: Callable[[IO[bytes]], Iterator[tuple[int, Film]]]
    person_file: str | None = None
    people: Callable[[IO[bytes]], Iterator[tuple[int, Person]]] = _no_people


#: Name of the ratings file -> readers of the release's files.
_LAYOUTS = {
    "u.data": _Layout(_ratings_tab, "u.item", _films_100k, "u.user", _people_100k),
    "ml-100k.inter": _Layout(_ratings_atomic, "ml-100k.item", _films_atomic, "ml-100k.user", _people_atomic),
    "ratings.dat": _Layout(_ratings_dat, "movies.dat", _films_dat, "users.dat", _people_1m),
    "ratings.csv": _Layout(_ratings_csv, "movies.csv", _films_csv),
}
