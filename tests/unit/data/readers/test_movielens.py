"""MovieLens in its three forms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from corral.data.readers import movielens

Write = Callable[..., Path]
Real = Callable[[str], Path]

FLAGS_COMEDY_WAR = "0|0|0|0|0|1|0|0|0|0|0|0|0|0|0|0|0|1|0"
FLAGS_UNKNOWN = "1" + "|0" * 18


def small_1m(write: Write) -> Path:
    write("ratings.dat", "1::10::5::978300760\n1::20::3::978302109\n2::10::4::978301968\n")
    write("users.dat", "1::F::1::10::48067\n2::M::56::16::70072\n")
    text = "10::Amélie (2001)::Comedy|Romance\n20::Star Wars: Episode IV (1977)::Sci-Fi\n"
    return write("movies.dat", text, "latin-1")


def test_1m_form(write: Write) -> None:
    read = movielens.read(small_1m(write))
    assert read.events.to_dict(as_series=False) == {
        "user_id": [1, 1, 2],
        "item_id": [10, 20, 10],
        "timestamp": [978300760, 978302109, 978301968],
        "value": [5.0, 3.0, 4.0],
    }
    assert read.user_features is not None
    assert read.user_features.rows() == [(1, "F", 1, 10), (2, "M", 56, 16)]
    assert read.item_features is not None
    assert read.item_features.rows() == [
        (10, "Amélie (2001)", 2001.0, ["Comedy", "Romance"]),
        (20, "Star Wars: Episode IV (1977)", 1977.0, ["Sci-Fi"]),
    ]
    assert read.text_columns == {"title"}
    assert read.time_unit == "seconds"
    assert str(write) not in read.source
    assert "GroupLens" in read.licence


def test_10m_form_has_half_stars_and_no_users(write: Write) -> None:
    write("ratings.dat.gz", "1::122::4.5::838985046\n")
    read = movielens.read(write("movies.dat.gz", "122::Boomerang (1992)::(no genres listed)\n"))
    assert read.events["value"].to_list() == [4.5]
    assert read.user_features is None
    assert read.item_features is not None
    assert read.item_features["genres"].to_list() == [[]]


def test_100k_form(write: Write) -> None:
    write("u.data", "196\t242\t3\t881250949\n186\t302\t3\t891717742\n")
    write("u.user", "196|24|M|technician|85711\n186|53|F|other|94043\n")
    write(
        "u.item",
        f"242|Les Misérables (1995)|01-Jan-1995||http://x|{FLAGS_COMEDY_WAR}\n302|unknown||||{FLAGS_UNKNOWN}\n",
        "latin-1",
    )
    read = movielens.read(write("u.genre", "unknown|0\n"))
    assert read.user_features is not None
    assert read.user_features.rows() == [(196, "M", 24.0, "technician"), (186, "F", 53.0, "other")]
    assert read.item_features is not None
    assert read.item_features.rows() == [
        (242, "Les Misérables (1995)", 1995.0, ["Comedy", "War"]),
        (302, "unknown", None, []),
    ]


def test_csv_form_given_as_a_file(write: Write) -> None:
    write("ratings.csv", "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n")
    folder = write(
        "movies.csv",
        'movieId,title,genres\n31,"Big Bang Theory, The (2007-)",Comedy\n32,Hyena Road,(no genres listed)\n',
    )
    read = movielens.read(folder / "ratings.csv")
    assert len(read) == 1
    assert read.item_features is not None
    assert read.item_features["title"].to_list() == ["Big Bang Theory, The (2007-)", "Hyena Road"]
    assert read.item_features["year"].to_list() == [2007.0, None]
    assert read.item_features["genres"].to_list() == [["Comedy"], []]


def test_bad_rows_name_file_line_and_value(write: Write) -> None:
    folder = small_1m(write)
    bad = "1::10::5::978300760\n1::x::3::978302109\n2::10\n2::20::4::-5\n2::20::4::978301968\n"
    write("ratings.dat", bad)
    with pytest.raises(ValueError, match=r"ratings.dat, line 3: '2::10': 2 fields where 4 were expected"):
        movielens.read(folder)
    write("ratings.dat", bad.replace("2::10\n", ""))
    with pytest.raises(ValueError, match=r"ratings.dat, line 2, column 'item_id': 'x': not an integer"):
        movielens.read(folder)
    write("ratings.dat", bad)
    read = movielens.read(folder, skip_bad_rows=True)
    assert len(read) == 2
    assert read.skipped.count == 3
    assert sorted(example.row for example in read.skipped.examples) == [2, 3, 4]


def test_duplicate_film_is_refused(write: Write) -> None:
    folder = small_1m(write)
    write("movies.dat", "10::A (2001)::Comedy\n10::B (2002)::Comedy\n")
    with pytest.raises(ValueError, match=r"movies.dat, line 2, .*duplicate key"):
        movielens.read(folder)


def test_a_directory_without_ratings_says_what_it_looked_for(write: Write) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected u.data or ratings.dat .* found links.csv"):
        movielens.read(write("links.csv", "a,b\n"))
    with pytest.raises(FileNotFoundError, match="no such file or directory"):
        movielens.read("nowhere")


@pytest.mark.parametrize(
    ("name", "events", "users", "items", "ratings", "first", "last"),
    [
        ("ml-100k", 100_000, 943, 1_682, [6_110, 11_370, 27_145, 34_174, 21_201], 874724710, 893286638),
        (
            "ml-1m",
            1_000_209,
            6_040,
            3_706,
            [56_174, 107_557, 261_197, 348_971, 226_310],
            956703932,
            1046454590,
        ),
        ("ml-latest-small-2016", 100_004, 671, 9_066, None, 789652009, 1476640644),
    ],
)
def test_real(
    real: Real,
    name: str,
    events: int,
    users: int,
    items: int,
    ratings: list[int] | None,
    first: int,
    last: int,
) -> None:
    read = movielens.read(real(name))
    assert len(read) == events
    assert read.skipped.count == 0
    assert read.events["user_id"].n_unique() == users
    assert read.events["item_id"].n_unique() == items
    assert (read.events["timestamp"].min(), read.events["timestamp"].max()) == (first, last)
    if ratings is not None:
        assert read.events["value"].value_counts().sort("value")["count"].to_list() == ratings
        assert read.user_features is not None
        assert len(read.user_features) == users
        assert read.user_features.null_count().select(pl.sum_horizontal(pl.all())).item() == 0


def test_real_1m_features(real: Real) -> None:
    features = movielens.read(real("ml-1m")).item_features
    assert features is not None
    assert len(features) == 3_883
    assert features["genres"].explode().n_unique() == 18
    assert features["year"].null_count() == 0
    assert features.filter(item_id=73)["title"].to_list() == ["Misérables, Les (1995)"]
