"""check_ids: external ids as int64 or strings; check_ids_like: as a vocabulary has them."""

from __future__ import annotations

import numpy as np
import polars as pl

from corral.data.skipped_rows import Problems

MAX_EXACT_FLOAT = 2**53
_PLAIN_INTEGER = r"^(-?[1-9][0-9]{0,17}|0)$"
_UP_TO_19_DIGITS = r"^(-?[1-9][0-9]{0,18}|0)$"


def check_ids(values: pl.Series, column: str, problems: Problems, text: bool = False) -> pl.Series:
    """Ids as Int64 or String, null where bad (and then noted in ``problems``)."""
    dtype = values.dtype
    if dtype == pl.Object:
        values = _from_objects(values, column, problems)
        dtype = values.dtype
    if dtype.is_integer():
        ids = values if dtype == pl.Int64 else values.cast(pl.Int64, strict=False)
        if dtype == pl.UInt64:
            problems.add(values.is_not_null() & ids.is_null(), column, values, "does not fit into int64; use strings")
    elif dtype.is_float():
        ids = _whole_floats(values, column, problems)
    elif dtype == pl.String or isinstance(dtype, pl.Categorical | pl.Enum):
        ids = values.cast(pl.String)
        ids = ids.set(ids == "", None) if (ids == "").any() else ids
        if text:
            ids = _ids_of_text(ids)
    elif dtype == pl.Null:
        ids = values.cast(pl.String)
    else:
        name = problems.names.get(column, column)
        raise ValueError(f"{problems.source}: column {name!r} has type {dtype}: ids are integers or strings; cast it")
    if values.null_count() or ids.null_count():
        noted = np.zeros(len(values), dtype=bool)
        for rows, noted_column, *_ in problems.found:
            if noted_column == problems.names.get(column, column):
                noted[rows] = True
        problems.add(ids.is_null() & ~pl.Series(noted), column, values, "missing id")
    return ids.alias(column)


def check_ids_like(
    values: pl.Series, column: str, problems: Problems, id_type: str, text: bool = False, may_be_new: bool = False
) -> pl.Series:
    """As ``check_ids``, in the type of a vocabulary: "int64" or "string"; an id that is no integer is bad in int64.

    Args:
        values: the ids.
        column: user_id or item_id.
        problems: where bad rows are noted.
        id_type: the vocabulary's.
        text: they come from a text file, whose fields have no type and are taken as they stand.
        may_be_new: ids that the vocabulary lacks are added to it, so that nobody would notice a wrong cast: numbers
            are then no strings. Is 7 meant as "7", as "007", or is it somebody new?

    Raises:
        ValueError: the column holds numbers and the vocabulary strings, which may be new ones.
    """
    if id_type == "string":
        ids = check_ids(values, column, problems)
        if may_be_new and ids.dtype != pl.String:
            found = "integers" if values.dtype == pl.Object else f"type {values.dtype}"
            raise ValueError(
                f"{problems.source}: column {problems.names.get(column, column)!r} has {found}, the data set's ids are "
                "strings: cast it"
            )
        return ids.cast(pl.String)
    ids = check_ids(values, column, problems, text)
    if ids.dtype != pl.String:
        return ids
    numbers = whole_numbers(ids)
    reason = "the ids of this data set are whole numbers below 2^63"
    problems.add(ids.is_not_null() & numbers.is_null(), column, values, reason)
    return numbers


def whole_numbers(texts: pl.Series) -> pl.Series:
    """Int64 of texts that are written as whole numbers are (17850, not 007); null for others and what int64 lacks.

    For ids that are known to be int64. Where that is still to be decided, 19 digits stay text: later ones may not fit.
    """
    return texts.set(~texts.str.contains(_UP_TO_19_DIGITS), None).cast(pl.Int64, strict=False)


def _whole_floats(values: pl.Series, column: str, problems: Problems) -> pl.Series:
    """Float ids (a column of ints that once had gaps) as ints, if every one is whole."""
    limit = exact_limit(values.dtype)
    values = values.cast(pl.Float64).fill_nan(None)
    good = values.is_finite() & (values == values.floor()) & (values.abs() < limit)
    below = f"whole and below 2^{limit.bit_length() - 1}"
    reason = f"ids must be integers or strings: a float id is accepted only if it is {below}"
    problems.add(values.is_not_null() & ~good, column, values, reason)
    return values.set(~good, None).cast(pl.Int64)


def exact_limit(dtype: pl.DataType) -> int:
    """The first whole number that a column of floats does not tell from the next."""
    if dtype == pl.Float16:
        return 2**11
    return 2**24 if dtype == pl.Float32 else MAX_EXACT_FLOAT


def plain_integers(text: pl.Series) -> pl.Series:
    """Which of the texts are integers that come back from int64 as they were: 7, not 007."""
    return text.str.contains(_PLAIN_INTEGER)


def _ids_of_text(ids: pl.Series) -> pl.Series:
    """Int64 if every id of a text column is a plain integer (17850, also 17850.0, not 007), else strings."""
    present = ids.set(ids.str.to_lowercase().is_in(["nan", "null", "none", "na"]), None)
    plain = present.str.contains(_PLAIN_INTEGER)
    if plain.all():
        return present.cast(pl.Int64)
    if present.str.contains(r"^(-?[1-9]\d{0,14}|0)(\.0+)?$").all() and present.null_count() < len(present):
        return present.str.replace(r"\.0+$", "").cast(pl.Int64)
    return ids


def _from_objects(values: pl.Series, column: str, problems: Problems) -> pl.Series:
    """A column of Python objects: one type is accepted, a mixture is refused."""
    objects = values.to_list()
    kinds = ["" if is_missing(value) else _kind(value) for value in objects]
    present = [kind for kind in kinds if kind]
    main = max(dict.fromkeys(present), key=present.count, default="string")
    if main not in ("integer", "string"):
        bad = pl.Series([kind == main for kind in kinds])
        problems.add(bad, column, values, f"a {main} is not an id: ids are integers or strings")
    other = pl.Series([bool(kind) and kind != main for kind in kinds])
    reason = f"ids of mixed type: this one is not a {main} as most are; make all of them strings, or all integers"
    problems.add(other, column, values, reason)
    good = [
        v if kind == main and main in ("integer", "string") else None for v, kind in zip(objects, kinds, strict=True)
    ]
    if main == "integer":
        numbers = [None if v is None else int(v) for v in good]
        fits = [v is None or -(2**63) <= v < 2**63 for v in numbers]
        problems.add(~pl.Series(fits), column, values, "does not fit into int64; use strings")
        numbers = [v if fit else None for v, fit in zip(numbers, fits, strict=True)]
        return pl.Series(values.name, numbers, dtype=pl.Int64)
    return pl.Series(values.name, [None if v is None else str(v) for v in good], dtype=pl.String)


def _kind(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return "bool"
    if isinstance(value, int | np.integer) or (isinstance(value, float | np.floating) and float(value).is_integer()):
        return "integer"
    return "string" if isinstance(value, str) else type(value).__name__


def is_missing(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float | np.floating) and bool(np.isnan(value)))
