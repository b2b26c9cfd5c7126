"""Tables in Markdown and in plain text, a line at a time: a slow measurement shows its rows as they come."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """The columns of a table.

    Parameters
    ----------
    titles : sequence of str
    align : str
        "l" or "r" for each column.
    widths : sequence of int, optional
        Of the columns, for plain text; a cell that is wider moves those after it. None: Markdown.
    """

    titles: Sequence[str]
    align: str
    widths: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if len(self.align) != len(self.titles) or len(self.widths or self.titles) != len(self.titles):
            raise ValueError(f"expected an alignment and a width for each of {len(self.titles)} titles")

    def head(self) -> str:
        if self.widths is not None:
            return self.row(*self.titles)
        rule = "|".join("---:" if side == "r" else "---" for side in self.align)
        return f"{self.row(*self.titles)}\n|{rule}|"

    def row(self, *cells: object) -> str:
        texts = [str(cell) for cell in cells]
        if len(texts) != len(self.titles):
            raise ValueError(f"expected {len(self.titles)} cells, got {len(texts)}")
        if self.widths is None:
            return f"| {' | '.join(texts)} |"
        columns = zip(texts, self.align, self.widths, strict=True)
        return " ".join(f"{text:{'>' if side == 'r' else '<'}{width}}" for text, side, width in columns).rstrip()

    def lines(self, rows: Iterable[Sequence[object]]) -> str:
        """The whole table."""
        return "\n".join([self.head(), *(self.row(*row) for row in rows)])


def number(value: float | None, digits: int = 2) -> str:
    """Three digits, or `digits` after the point where the value is below 10; a dash for None."""
    if value is None:
        return "–"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"
