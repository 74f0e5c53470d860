"""Measured cells of chips, and the CSV file in which a tester hands them over."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .checks import InputError

COLUMNS = ("chip", "cell", "target", "measured")
ARRAY = "array"  # a column that may be there


@dataclass(frozen=True)
class Cells:
    """Measured cells: chip names (N,), targets and measured values (N,), in one unit, whatever it is.

    arrays: names (N,) of the arrays that the cells lie in, each of one chip; None where nobody noted them.
    Raises InputError for an array on two chips."""

    chips: np.ndarray
    target: np.ndarray
    measured: np.ndarray
    arrays: np.ndarray | None = None

    def __post_init__(self):
        home: dict = {}
        for array, chip in zip(() if self.arrays is None else self.arrays.tolist(), self.chips.tolist()):
            _at_home(home, array, chip)

    def scale(self, law: str, curve: tuple[float, ...] = (1.0,)) -> np.ndarray:
        """What one unit of e is worth, (N,): the target, or σ(|target|/max)·max of the largest target; σ is 1 but under
        the measured law, where `curve` has its coefficients."""
        if law == "proportional":
            return self.target
        top = np.abs(self.target).max()
        return top * np.polynomial.polynomial.polyval(np.abs(self.target) / top, curve)

    def deviations(self, law: str, g: float = 1.0, curve: tuple[float, ...] = (1.0,)) -> np.ndarray:
        """e = (measured/g − target)/scale, (N,); NaN where the scale is 0."""
        scale, e = self.scale(law, curve), np.full(len(self.target), np.nan)
        return np.divide(self.measured / g - self.target, scale, out=e, where=scale != 0)


def _at_home(home: dict, array, chip) -> None:
    """Note the chip of an array; InputError for a second one."""
    if home.setdefault(array, chip) != chip:
        raise InputError(
            f"array {array!r} is on the chips {home[array]!r} and {chip!r}; allowed: one chip an array; name them "
            f"apart, such as {home[array]}-{array} and {chip}-{array}"
        )


def read_cells(path: str | Path) -> Cells:
    """Cells from a CSV file with the columns chip, cell, target, measured and perhaps array (others are ignored), a row
    a cell.

    Raises InputError with the file's line where columns, fields or names are missing or too many, a value is no finite
    number, a cell comes twice, an array lies on two chips, or the file holds too little: no chip with 2 cells, only
    targets of 0."""
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:  # µ in another encoding: no harm
        reader = csv.reader(file, strict=True)
        try:
            return _read(reader)
        except csv.Error as error:
            why = f"{error}; allowed: quotation marks in pairs around a field; drop the odd one, here or above"
        except InputError as error:
            why = str(error)
        raise InputError(f"{Path(path).name}, line {max(1, reader.line_num)}: {why}")


def _read(reader) -> Cells:
    filled = (row for row in reader if "".join(row).strip())
    header, rows = _header(next(filled, [])), []
    lines: dict[tuple[str, ...], int] = {}
    home: dict[str, str] = {}
    for row in filled:
        chip, cell, target, measured, *array = _row(row, header)
        if first := lines.get((chip, cell, *array)):
            raise InputError(f"cell {cell!r} of chip {chip!r} stands on line {first} already; average the readings")
        lines[chip, cell, *array] = reader.line_num
        for name in array:
            _at_home(home, name, chip)
        rows.append((chip, _number("target", target), _number("measured", measured), *array))
    if len({chip for chip, *_ in rows}) == len(rows):
        found = "every chip has a single cell" if rows else "no cell in the whole file"
        raise InputError(f"{found}; σ_W needs at least 2 cells on a chip, a row a cell")
    cells = Cells(*map(np.array, zip(*rows)))
    if not cells.target.any():
        raise InputError("every target is 0; deviations need a scale, so program some cells to other values")
    return cells


def _header(row: list[str]) -> list[str]:
    header, needed = [name.strip() for name in row], ", ".join(COLUMNS)
    if not header:
        raise InputError(f"the file is empty; it needs the columns {needed} and a row a cell")
    missing = [name for name in COLUMNS if name not in header]
    if missing and any(sign in row[0] for sign in ";\t|\0"):  # \0: UTF-16
        fix = "save it as 'CSV UTF-8' with commas between the fields and points in the numbers"
        raise InputError(f"the header {row[0]!r} is separated by semicolons, tabs or the like; {fix}")
    if missing:
        raise InputError(f"no column {', '.join(map(repr, missing))}; needed: {needed}; found: {', '.join(header)}")
    if twice := [name for name in (*COLUMNS, ARRAY) if header.count(name) > 1]:
        raise InputError(f"column {twice[0]!r} comes twice; rename the one that is not meant")
    return header


def _row(row: list[str], header: list[str]) -> list[str]:
    named = [name for name in (*COLUMNS, ARRAY) if name in header]
    places = [header.index(name) for name in named]
    if len(row) <= max(places) or "".join(row[len(header) :]).strip():
        fix = "decimal commas? write 10.5 for 10,5" if len(row) > len(header) else "fill the row up"
        raise InputError(f"{len(row)} fields ({','.join(row)}), the header has {len(header)}; {fix}")
    fields = [row[place].strip() for place in places]
    if "" in (*fields[:2], *fields[4:]):
        raise InputError(f"{named[fields.index('')]} is ''; allowed: any name; write it into every row, no blank")
    return fields


def _number(name: str, text: str) -> float:
    try:
        value = float(text) if text.isascii() and "_" not in text else math.nan  # float reads 1_5 as 15, and ٣
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        fix = "write it as 1234.5 or -1e-6 (no decimal comma, thousands separator or unit)"
        raise InputError(f"{name} must be a finite number, got {text!r}; {fix}, or drop the row if it was not read")
    return value
