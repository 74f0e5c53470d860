"""Laws, components, and chips that depend on nothing but their seed."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats

from lib.laws import CELLS, CELLS_OF_A_WEIGHT, MAPPINGS, layer_fixed, proportional, register_mapping
from lib.selftuning import Gain, Offset, refuse_other_law
from lib.statistics import variance_components
from lib.variation import PURPOSES, Chip, PassingChip, Variation


def cells(variation, n_chips, n_cells):
    return np.stack([variation.deviation(Chip(i), "layer", torch.empty(n_cells)).numpy() for i in range(n_chips)])


@pytest.mark.parametrize("law,scale", [("proportional", 0.5), ("layer-fixed", 2.0)])
def test_laws_mean_and_variance(law, scale):
    """w = 0.5 in a layer whose maximum is 2: σ of the deviated weight is σ·|w| or σ·max|w|."""
    weight = torch.full((40_000,), 0.5)
    weight[0] = -2.0
    out = Variation(0.3, law=law).deviate(Chip(1), "layer", weight)(weight)[1:]
    assert out.mean().item() == pytest.approx(0.5, abs=5 * 0.3 * scale / 200)
    assert out.std().item() == pytest.approx(0.3 * scale, rel=0.02)


def test_laws_gradients():
    e = torch.tensor([0.5, -0.2, 0.1])
    peak = torch.tensor([0.0, -1.0, 0.0]) * (0.5 - 0.2 + 0.1)  # to the cell that holds max|w|, with its sign
    for law, expected in ((proportional, 1 + e), (layer_fixed, torch.ones(3) + peak)):
        w = torch.tensor([1.0, -3.0, 2.0], requires_grad=True)
        law(w, e).sum().backward()
        torch.testing.assert_close(w.grad, expected)
        assert torch.autograd.gradcheck(law, (w.detach().double().requires_grad_(), e.double()))


def test_cells_that_share_the_maximum_share_its_gradient():
    """Half of a binary layer at +s, half at −s: the full scale they hold together gets Σ e·g once."""
    w = torch.tensor([0.5, -0.5, 0.5, -0.5], requires_grad=True)
    layer_fixed(w, torch.tensor([0.4, 0.4, 0.4, 0.4])).sum().backward()
    torch.testing.assert_close(w.grad - 1, 4 * 0.4 / 4 * w.detach().sign())


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("sigma", [0.1, 0.5])
def test_every_distribution_of_cells_has_mean_0_and_the_stated_sigma(kind, sigma):
    e = Variation(sigma, cells=kind).own(Chip(2).z_within("layer", (400_000,)))
    assert e.mean().item() == pytest.approx(0, abs=5 * sigma / 632) and e.std().item() == pytest.approx(sigma, rel=0.02)
    assert kind != "lognormal" or e.min() > -1  # no weight changes its sign


def test_a_variation_of_some_layers_leaves_the_others_exact():
    some = Variation(0.3, 0.2, layers=("a",))
    like = torch.ones(3)
    assert some.deviate(Chip(0), "b", like) is None
    assert torch.equal(some.deviate(Chip(0), "a", like)(like), Variation(0.3, 0.2).deviate(Chip(0), "a", like)(like))
    assert Variation.split(0.3, 0.25).between_share == pytest.approx(0.25) and Variation().between_share == 0


@pytest.mark.parametrize("share", [0.0, 0.25, 0.8])
def test_components_are_recovered_by_a_one_way_analysis(share):
    variation = Variation.split(0.4, share)
    within, between = variance_components(cells(variation, 1500, 60))
    assert within == pytest.approx(variation.within, rel=0.02)
    assert between**2 == pytest.approx(variation.between**2, rel=0.15, abs=1e-4)
    assert variation.total == pytest.approx(0.4)


def test_one_bit_weights_make_the_laws_agree_within_a_chip():
    weight = torch.where(torch.rand(20_000, generator=torch.Generator().manual_seed(0)) < 0.5, -0.3, 0.3)
    variations = [Variation(0.4, law=law) for law in ("proportional", "layer-fixed")]
    a, b = (variation.deviate(Chip(5), "layer", weight)(weight) for variation in variations)
    assert not torch.equal(a, b)  # draws differ by the weight's sign
    assert stats.ks_2samp(a.numpy(), b.numpy()).pvalue > 0.01


def test_the_shared_part_is_shared_by_layers_and_scales_with_sigma():
    chip, like = Chip(9), torch.empty(4, 3)
    small, large = Variation(between=0.1), Variation(between=0.3)
    assert torch.equal(small.deviation(chip, "a", like), small.deviation(chip, "b", like))
    torch.testing.assert_close(3 * small.deviation(chip, "a", like), large.deviation(chip, "a", like))
    assert not torch.equal(chip.z_within("a", (5,)), chip.z_within("b", (5,)))


def test_a_chip_never_changes():
    """Golden values: another numpy, another machine or another order of draws must give the same chips."""
    chip = Chip.of("test", 7)
    [Chip(i).z_within("elsewhere", (100,)) for i in range(3)]
    z = chip.z_within("conv1", (6, 1, 5, 5))
    digest = hashlib.sha256(np.round(z.numpy(), 5).tobytes()).hexdigest()[:16]
    assert [round(v, 5) for v in z.flatten()[:3].tolist()] == GOLDEN_Z
    assert digest == GOLDEN_DIGEST
    assert round(chip.z_between(), 5) == GOLDEN_BETWEEN


GOLDEN_Z = [-0.74038, -0.24241, 1.62071]
GOLDEN_DIGEST = "e08992c2dffcd2a0"
GOLDEN_BETWEEN = -0.33171


def test_a_chip_is_the_same_in_another_process_with_other_threads(two_threads):
    code = (
        "import torch; torch.set_num_threads(1); from lib.variation import Chip, Variation;"
        "print(Variation.split(0.3, 0.5).deviation(Chip(11), 'x', torch.empty(1000)).double().sum().item())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert float(out) == Variation.split(0.3, 0.5).deviation(Chip(11), "x", torch.empty(1000)).double().sum().item()


def test_purposes_never_meet():
    seeds = {Chip.of(p, i, run).seed for p in PURPOSES for i in (0, 1, 2**32 - 1) for run in (0, 2**16 - 1)}
    assert len(seeds) == 4 * 3 * 2
    assert Chip.of("test", 12).seed == 12


def test_normals_are_standard():
    z = Chip(0).z_within("big", (200_000,)).numpy()
    assert stats.kstest(z[:5000], "norm").pvalue > 0.001
    assert z.mean() == pytest.approx(0, abs=0.01) and z.std() == pytest.approx(1, abs=0.01)


def test_a_passing_chip_has_normals_of_its_own_for_every_key():
    chip = PassingChip.of("training", 3, run=1)
    z = chip.z_within("big", (20, 10_000))
    values = z.numpy().ravel()
    assert z.dtype == torch.float32 and stats.kstest(values[:5000], "norm").pvalue > 0.001
    assert values.mean() == pytest.approx(0, abs=0.01) and values.std() == pytest.approx(1, abs=0.01)
    assert np.abs(values).max() > 4
    before = torch.get_rng_state()
    assert torch.equal(z, PassingChip.of("training", 3, run=1).z_within("big", (20, 10_000)))
    assert torch.equal(before, torch.get_rng_state())  # nobody else's generator has moved
    others = [PassingChip.of("training", 4, run=1), PassingChip.of("training", 3), Chip(chip.seed)]
    for other in [c.z_within("big", z.shape) for c in others] + [chip.z_within("small", z.shape)]:
        assert abs(np.corrcoef(values, other.numpy().ravel())[0, 1]) < 0.02
    draws = [PassingChip.of("training", i).z_between() for i in range(2000)]
    assert stats.kstest(draws, "norm").pvalue > 0.001  # no lot: each minibatch is a draw of its own
    assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 0.1


def test_z_between_is_spread_over_a_lot():
    """u of chip i = frac(u₀ + i·golden), z_B its normal quantile; another purpose begins elsewhere."""
    for purpose in ("test", "validation"):
        chips = [Chip.of(purpose, i) for i in (*range(200), 10**6)]
        u = np.array([chip.place for chip in chips])
        assert stats.norm.cdf([chip.z_between() for chip in chips]) == pytest.approx(u)
        steps = np.diff(u[:200]) % 1
        assert steps == pytest.approx((5**0.5 - 1) / 2)
        assert (u[-1] - u[0]) % 1 == pytest.approx(10**6 * ((5**0.5 - 1) / 2) % 1, abs=1e-9)
        assert np.diff(np.sort(u[:200])).max() < 0.0105  # twice the even spacing and a hair: no gap is left
    assert Chip.of("test", 0).place != Chip.of("validation", 0).place
    assert Chip.of("test", 0, run=1).place != Chip.of("test", 0).place


def test_the_first_chips_of_many_lots_are_independent_normals():
    z = [Chip.of("test", 0, run).z_between() for run in range(3000)]
    assert stats.kstest(z, "norm").pvalue > 0.001 and abs(np.corrcoef(z[1:], z[:-1])[0, 1]) < 0.1


def test_device_moves_but_does_not_draw():
    z = Variation(0.2).deviation(Chip(3), "a", torch.empty(8, dtype=torch.float64))
    assert z.dtype == torch.float64
    torch.testing.assert_close(z.float(), Variation(0.2).deviation(Chip(3), "a", torch.empty(8)))
    if torch.cuda.is_available():
        on_gpu = Variation(0.2).deviation(Chip(3), "a", torch.empty(8, device="cuda"))
        assert torch.equal(on_gpu.cpu(), Variation(0.2).deviation(Chip(3), "a", torch.empty(8)))


@pytest.mark.parametrize("kind", CELLS)
def test_deviations_leave_the_normals_as_they_are(kind):
    """The same normals twice are the same deviations twice, of the standard deviation that was asked for."""
    variation, z = Variation(0.5, cells=kind), Chip(0).z_within("layer", (100_000,))
    first, second = variation.own(z), variation.own(z)
    assert torch.equal(first, second) and first.std().item() == pytest.approx(0.5, rel=0.02)
    assert torch.equal(z, Chip(0).z_within("layer", (100_000,)))


def test_a_mapping_of_ones_own(monkeypatch):
    """Two cells of half a weight each: their own parts average, what they share adds up."""
    for registry in (MAPPINGS, CELLS_OF_A_WEIGHT):
        monkeypatch.setitem(registry, "halves", None)  # it goes again
    register_mapping("halves", lambda law, w, e: law(w / 2, e[0]) + law(w / 2, e[1]), 2)
    w = torch.full((40_000,), 0.5)
    own, shared = (
        Variation(*sigmas, mapping="halves").deviate(Chip(1), "layer", w)(w) for sigmas in ((0.3,), (0, 0.3))
    )
    assert own.std().item() == pytest.approx(0.5 * 0.3 / 2**0.5, rel=0.02)
    torch.testing.assert_close(shared, w * (1 + Variation(0, 0.3).shared(Chip(1))))
    for correction in (Gain(), Offset()):
        with pytest.raises(ValueError, match="not the mapping 'halves'; use Response"):
            refuse_other_law(correction, Variation(0.3, law=correction.law, mapping="halves"))


def test_every_cell_of_a_weight_has_normals_of_its_own():
    v = Variation(0.2)
    parts = torch.stack([v.deviation(Chip(1), "layer", torch.empty(10_000), cell=cell) for cell in range(4)])
    assert (torch.corrcoef(parts) - torch.eye(4)).abs().max() < 0.05


PER_CENT = [
    lambda: Variation(within=30),
    lambda: Variation(between=5.0),
    lambda: Variation.split(30, 0.5),
    lambda: Variation.split(1.2, 0.0),
]


@pytest.mark.parametrize("make", PER_CENT)
def test_a_per_cent_typed_as_a_fraction_is_refused(make):
    line = r"must be a fraction from 0 to 1, got .* \(30 % is 0.3\); large=True allows more"
    with pytest.raises(ValueError, match=line):
        make()


def test_a_large_sigma_is_taken_where_it_is_asked_for():
    assert Variation(1.5, large=True).within == 1.5
    assert Variation.split(2.0, 0.5, large=True).total == pytest.approx(2.0)
