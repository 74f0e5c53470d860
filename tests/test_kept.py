"""Chips that are kept are the same chips, however little is kept and whatever is done to what they give."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import trained

from lib import Variation, evaluate, kept, register_cells
from lib.evaluation import places
from lib.kept import Kept, KeptChip
from lib.laws import CELLS
from lib.variation import Chip

DRAWS = {
    "within": lambda chip: chip.z_within("layer", (3, 5)),
    "within elsewhere": lambda chip: chip.z_within("other", (3, 5)),
    "of another shape": lambda chip: chip.z_within("layer", (5, 3)),
    "arrays": lambda chip: chip.z_arrays("layer", (1, 2, 2)),
    "reference": lambda chip: chip.z_reference(16),
    "reference of arrays": lambda chip: chip.z_reference(4, "layer", (1, 2, 2)),
    "columns": lambda chip: chip.z_columns("layer", (2, 5)),
    "reading": lambda chip: chip.z_reading(),
    "between": lambda chip: torch.tensor(chip.z_between()),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_kept_chip_is_the_chip(draw):
    for index in (0, 1, 2**32 - 1):
        for _ in range(2):  # drawn, then kept
            assert torch.equal(draw(KeptChip.of("test", index)), draw(Chip.of("test", index)))


def test_what_a_caller_does_to_normals_stays_with_him():
    KeptChip(7).z_within("layer", (4,)).zero_()
    assert torch.equal(KeptChip(7).z_within("layer", (4,)), Chip(7).z_within("layer", (4,)))


def test_the_oldest_go_first_and_the_limit_holds():
    some = Kept(limit=3 * 4 * 10)
    for name in "abc":
        some.keep(name, torch.zeros(10))
    some.get("a")
    some.keep("d", torch.zeros(10))
    assert [some.get(name) is not None for name in "abcd"] == [True, False, True, True]
    some.keep("too large", torch.zeros(1000))
    assert some.bytes == 0
    assert some.get("too large") is None


def test_threads_may_share_what_is_kept():
    some = Kept(limit=400)

    def use(seed: int) -> int:
        for i in range(300):
            key = (seed * i) % 40
            if some.get(key) is None:
                some.keep(key, torch.zeros(5))
        return some.bytes

    with ThreadPoolExecutor(8) as pool:
        assert max(pool.map(use, range(8))) <= 400


@pytest.mark.parametrize("limit", [0, 2**28])
def test_counts_do_not_depend_on_what_is_kept(images, monkeypatch, limit):
    net, v = trained(images), Variation.split(0.5, 0.5)
    monkeypatch.setattr(kept, "NORMALS", Kept(2**28))
    expected = evaluate(net, images, v, 6).correct.tolist()
    monkeypatch.setattr(kept, "NORMALS", Kept(limit))
    assert [evaluate(net, images, v, 6).correct.tolist() for _ in range(2)] == [expected, expected]


def test_a_distribution_that_works_in_place_does_no_harm(images):
    register_cells("in place", lambda z, sigma: z.mul_(sigma))
    try:
        net = trained(images)
        plain, rude = (evaluate(net, images, Variation(0.4, cells=name), 4) for name in ("normal", "in place"))
        again = evaluate(net, images, Variation(0.4, cells="in place"), 4)
        assert rude.correct.tolist() == plain.correct.tolist() == again.correct.tolist()
    finally:
        del CELLS["in place"]


def test_places_are_those_of_the_chips():
    chips = [0, 1, 5, 2**32 - 1]
    for purpose in ("test", "validation"):
        found = places(chips, Variation.split(0.3, 0.5), purpose)
        assert found.tolist() == [Chip.of(purpose, chip).place for chip in chips]
    assert places(chips, Variation(0.3), "test") is None
