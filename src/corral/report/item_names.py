"""ItemNames: items as people know them, their id, their title and what else the data says of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from corral.data.features import FeatureColumn, FeatureKind, FeatureTable
from corral.data.vocabulary import PADDING, Vocabulary
from corral.report.blocks import Cell
from corral.report.number_text import plain


@dataclass(frozen=True)
class Item:
    """An item as people know it; the title is "" where it has none."""

    id: str
    title: str

    @property
    def name(self) -> str:
        """The title, or else the id."""
        return self.title or self.id

    @property
    def cell(self) -> Cell:
        """For a table: the title and, in small letters, the id."""
        return (self.title, self.id) if self.title else self.id


class ItemNames:
    """Item rows to ids and titles.

    Args:
        items: the vocabulary.
        features: of the items.
    """

    def __init__(self, items: Vocabulary, features: FeatureTable) -> None:
        self._items, self._titles = items, features.titles

    def item(self, row: int) -> Item:
        """The item of a row."""
        known = self._items.external([row])[0]
        title = "" if self._titles is None else self._titles[row].as_py() or ""
        return Item("unknown" if known is None else str(known), title)


def feature_words(features: FeatureTable, row: int) -> dict[str, str]:
    """What a table says of a row, by column: values that are missing, and the title, are left out."""
    titles = features.titles
    shown = {name: one for name, one in features.columns.items() if titles is None or one.texts is not titles}
    found = {name: _words(column, row) for name, column in shown.items()}
    return {name: words for name, words in found.items() if words}


def described(item: Item, features: Mapping[str, str], *more: str) -> Cell:
    """The title, and in small letters the id, the features and what else there is to say."""
    small = [item.id] if item.title else []
    small += [f"{name}: {words}" for name, words in features.items()] + [words for words in more if words]
    return (item.name, " · ".join(small)) if small else item.name


def _words(column: FeatureColumn, row: int) -> str:
    if column.kind is FeatureKind.TEXT:
        assert column.texts is not None
        return column.texts[row].as_py() or ""
    if column.kind is FeatureKind.NUMERIC:
        value = float(column.values[row])
        return "" if math.isnan(value) else plain(value)
    assert column.vocabulary is not None
    codes = column.values[row : row + 1]
    if column.offsets is not None:
        codes = column.values[column.offsets[row] : column.offsets[row + 1]]
    return ", ".join(str(value) for value in column.vocabulary.external(codes[codes != PADDING]) if value is not None)
