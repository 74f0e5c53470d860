"""Files of measured cells: read back as written, or refused with the line and what is wrong in it."""

import numpy as np
import pytest
from conftest import simulated

from lib import Variation
from lib.cells import COLUMNS, Cells, read_cells
from lib.fitting import fit_cells


def write(folder, text: str):
    path = folder / "cells.csv"
    path.write_text(text, encoding="utf-8")
    return path


HEADER = "chip,cell,target,measured\n"
GOOD = HEADER + "".join(f"{c},{i},{t},{t * 1.1}\n" for c in "ab" for i, t in enumerate((0.5, -1.0)))


def test_a_file_of_simulated_cells_comes_back(tmp_path):
    cells = simulated(Variation(0.2, 0.1), 4, 12, 0)
    columns = enumerate(zip(cells.chips, cells.target, cells.measured))
    rows = [f"{c},{i},{t:.17g},{m:.17g},note" for i, (c, t, m) in columns]
    read = read_cells(write(tmp_path, "chip,cell,target,measured,remark\n\n" + "\n".join(rows) + "\n"))
    assert list(read.chips) == [str(c) for c in cells.chips]
    np.testing.assert_array_equal(read.measured, cells.measured)


def test_one_chip_and_blank_surplus_fields_are_read(tmp_path):
    one = GOOD.replace("b,0", "a,2").replace("b,1", "a,3").replace("a,1,-1.0,-1.1", "a,1,-1.0,-1.1,, ")
    assert list(read_cells(write(tmp_path, one)).chips) == ["a"] * 4


def test_utf_16_is_refused_in_one_line(tmp_path):
    (tmp_path / "cells.csv").write_bytes(GOOD.replace(",", "\t").encode("utf-16"))
    with pytest.raises(ValueError, match="line 1: .*UTF-8"):
        read_cells(tmp_path / "cells.csv")


BAD = {
    "empty": ("", 1, ["empty", "chip, cell, target, measured"]),
    "missing column": (GOOD.replace("target", "goal"), 1, ["'target'", "found: chip, cell, goal, measured"]),
    "column twice": ("\n" + GOOD.replace("cell,target", "target,cell,target"), 2, ["'target' comes twice"]),
    "missing column below a blank line": ("\n" + GOOD.replace("target", "goal"), 2, ["'target'"]),
    "text": (GOOD.replace("b,0,0.5,", "b,0,half,"), 4, ["target", "finite", "'half'"]),
    "NaN": (GOOD.replace("a,1,-1.0,-1.1", "a,1,-1.0,nan"), 3, ["measured", "'nan'"]),
    "blank value": (GOOD.replace("a,1,-1.0,-1.1", "a,1,-1.0,"), 3, ["measured", "''"]),
    "infinite": (GOOD.replace("a,1,-1.0,-1.1", "a,1,-1.0,inf"), 3, ["measured", "'inf'"]),
    "short row": (GOOD.replace("a,1,-1.0,-1.1", "a,1"), 3, ["2 fields", "4"]),
    "one cell on one chip": ("chip,cell,target,measured\na,0,1,1.1\n", 2, ["single cell"]),
    "decimal commas": (GOOD + "a,2,10,00,9,31\n", 6, ["6 fields (a,2,10,00,9,31)", "header has 4", "10.5 for 10,5"]),
    "one decimal comma": (GOOD + "a,2,10,9,31\n", 6, ["5 fields", "decimal commas"]),
    "quoted decimal comma": (GOOD + 'a,2,"10,00",9.31\n', 6, ["target", "'10,00'", "1234.5", "decimal comma"]),
    "thousands separator": (GOOD + 'a,2,1000,"1,234.5"\n', 6, ["measured", "'1,234.5'", "thousands separator"]),
    "thousands underscore": (GOOD + "a,2,1_000,1\n", 6, ["target", "'1_000'", "thousands separator"]),
    "unit": (GOOD + "a,2,10 µS,9\n", 6, ["target", "'10 µS'", "unit"]),
    "typographic minus": (GOOD + "a,2,\u22121,-1\n", 6, ["target", "'\u22121'", "-1e-6"]),
    "digits of another script": (GOOD + "a,2,1,\u0663\n", 6, ["measured", "'\u0663'"]),
    "semicolons": (GOOD.replace(",", ";"), 1, ["'chip;cell;target;measured'", "semicolons", "commas"]),
    "semicolons and decimal commas": (GOOD.replace(",", ";").replace(".", ","), 1, ["semicolons", "points"]),
    "tabs": (GOOD.replace(",", "\t"), 1, ["chip\\tcell", "tabs", "commas"]),
    "blank chip": (GOOD.replace("b,1", ",1"), 5, ["chip is ''", "every row"]),
    "blank cell": (GOOD.replace("b,1", "b, "), 5, ["cell is ''", "every row"]),
    "open quotation mark": (GOOD + 'a,2,1,"1.1\na,3,1,1\n', 7, ["quotation marks", "drop the odd one"]),
    "no rows": ("chip,cell,target,measured\n", 1, ["no cell"]),
    "one cell a chip": ("chip,cell,target,measured\na,0,1,1.1\nb,0,1,0.9\n", 3, ["single cell"]),
    "twice": (GOOD + "a,0,0.5,0.6\n", 6, ["cell '0' of chip 'a'", "line 2"]),
    "all zero": ("chip,cell,target,measured\na,0,0,1\na,1,0,2\nb,0,0,1\n", 4, ["every target is 0"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_with_their_line(case, tmp_path):
    text, line, parts = BAD[case]
    with pytest.raises(ValueError) as error:
        read_cells(write(tmp_path, text))
    message = str(error.value)
    assert f"cells.csv, line {line}: " in message and "\n" not in message, message
    assert all(part in message for part in parts), message


def test_other_refusals():
    cells = simulated(Variation(0.1), 3, 6, 0)
    with pytest.raises(ValueError, match="'log'; allowed: proportional, layer-fixed"):
        fit_cells(cells, "log")
    lonely = Cells(np.array(["a", "a", "b", "b"]), np.array([0.0, 0.0, 1.0, 1.0]), np.ones(4))
    with pytest.raises(ValueError, match="2 cells with a target other than 0 on 1 chips; needed: 3"):
        fit_cells(lonely)
    with pytest.raises(ValueError, match="cell number 3 has target .*, measured nan; .*drop"):
        fit_cells(Cells(cells.chips, cells.target, np.where(np.arange(18) == 3, np.nan, cells.measured)))
    assert COLUMNS == ("chip", "cell", "target", "measured")
