"""One measured figure beside its anchor, and the table of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Figure:
    """`value` and `anchor_value` in `unit`, measured in one run; `goal` says what the ratio should be, for people."""

    name: str
    value: float
    unit: str
    anchor: str
    anchor_value: float
    goal: str

    @property
    def ratio(self) -> float:
        """value / anchor_value."""
        return self.value / self.anchor_value

    def to_json(self) -> dict[str, Any]:
        """As build/bench.json has it."""
        return {**asdict(self), "ratio": round(self.ratio, 3)}


def percentile(values: Sequence[float], part: float) -> float:
    """Of sorted `values`, the one below which `part` (0 to 1) of them are."""
    return values[min(len(values) - 1, int(len(values) * part))]


def table(figures: Sequence[Figure]) -> str:
    """One line a figure."""
    head = ("what", "value", "anchor", "its value", "ratio", "goal")
    rows = [
        (f.name, f"{f.value:.2f} {f.unit}", f.anchor, f"{f.anchor_value:.2f} {f.unit}", f"{f.ratio:.3g}", f.goal)
        for f in figures
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)
    )
