"""Arrays, mappings, the measured law and references that sit where the cells are."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from lib import Oracle, ReferenceCells, ReferenceColumns, SelfTuning, Variation, evaluate, programmed, to_analog
from lib.accounting import cost, mismatch_error
from lib.analog import crossbars, evaluating
from lib.arrays import Grid, row_blocks
from lib.checks import InputError
from lib.estimators import grid_of, grids_of
from lib.folding import folded, plan
from lib.laws import Measured
from lib.placement import report
from lib.selftuning import correction_for
from lib.training import Recipe, fit
from lib.variation import Chip

CURVE = (0.3, 0.5, -0.4)
LAWS = {"proportional": {}, "layer-fixed": {}, "measured": {"curve": CURVE}}
MAPPINGS = ("single-ended", "differential")


class Net(nn.Module):
    """A convolution, a grouped one, a depthwise one, batch norm, and two linear layers."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.grouped = nn.Conv2d(6, 8, 3, groups=2, padding_mode="circular", padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, groups=8, bias=False)
        self.first, self.last = nn.Linear(8 * 4 * 4, 20), nn.Linear(20, 5)

    def forward(self, x):
        x = torch.relu(self.conv(x))
        x = torch.relu(self.norm(self.grouped(x)))
        return self.last(torch.relu(self.first(self.deep(x).flatten(1))))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    x = torch.randn(8, 2, 6, 6)
    made = Net()
    made.norm.running_mean.uniform_(-0.2, 0.2)
    return to_analog(made, "A4W4", x).double().eval()


@pytest.fixture(scope="module")
def x():
    return torch.randn(8, 2, 6, 6, generator=torch.Generator().manual_seed(1)).double()


# -- layout ---------------------------------------------------------------------------------------------------


def test_every_weight_lies_in_the_array_of_its_row_and_column():
    grid = Grid((10, 3, 2, 2), groups=2, rows=5, columns=2)
    assert grid.counts == (2, 3, 3) and grid.arrays == 18
    values = torch.arange(18.0).view(grid.counts)
    spread = grid.spread(values).flatten(1)
    for output in range(10):
        for k in range(12):
            assert spread[output, k] == values[output // 5, k // 5, output % 5 // 2]
    columns = grid.over_columns(values).flatten(1)
    for group in range(2):
        for block in range(3):
            assert torch.equal(columns[3 * group + block], values[group, torch.arange(12) // 5, block])
    per_block = torch.arange(6.0)[:, None]
    assert grid.over_outputs(per_block, 0).flatten().tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 4, 5]
    assert grid.over_outputs(torch.arange(2.0)[:, None], 0).flatten().tolist() == [0] * 5 + [1] * 5
    assert [(r.start, r.stop) for r in row_blocks(12, 5)] == [(0, 5), (5, 10), (10, 12)]


@pytest.mark.parametrize("rows,columns", [(256, 256), (7, 3)])
@pytest.mark.parametrize("name", ["conv", "grouped", "deep", "first"])
def test_part_products_add_up_to_the_whole(net, x, name, rows, columns):
    layer = dict(crossbars(net))[name]
    seen = {}
    handle = layer.register_forward_pre_hook(lambda m, args: seen.update(x=m.quantize_input(args[0])))
    with evaluating(net):
        net(x)
    handle.remove()
    w, blocks = layer.quantize_weight(layer.weight).detach(), row_blocks(layer.weight[0].numel(), rows)
    parts = sum(layer.part(seen["x"], w, r) for r in blocks)
    torch.testing.assert_close(parts, layer.op(seen["x"], w))
    sums = sum(layer.input_sum(seen["x"], r) for r in blocks)
    torch.testing.assert_close(sums, layer.input_sum(seen["x"]))


# -- three levels ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape,groups", [((24, 40), 1), ((16, 5, 3, 3), 1), ((16, 4, 3, 3), 4)], ids=["linear", "convolution", "grouped"]
)
def test_a_nested_analysis_recovers_all_three_components(shape, groups):
    """Arrays smaller than a layer: cells in arrays in chips; expected mean squares of a balanced nested design."""
    v = Variation.split(0.3, 0.6, array_share=0.4, rows=12, columns=4)
    like, grid = torch.empty(shape), v.grid(shape, groups)
    index = grid.spread(torch.arange(float(grid.arrays)).view(grid.counts)).broadcast_to(shape).long().flatten().numpy()
    sizes = np.bincount(index)
    full = np.flatnonzero(sizes == sizes.max())  # a balanced design
    e = np.stack([v.deviation(Chip.of("test", i), "layer", like, groups).numpy().ravel() for i in range(600)])
    cells = np.stack([e[:, index == a] for a in full], 1).astype(float)  # (chips, arrays, cells)
    n, arrays = cells.shape[2], cells.shape[1]
    within = cells.var(2, ddof=1).mean()
    means = cells.mean(2)
    array = means.var(1, ddof=1).mean() - within / n
    between = means.mean(1).var(ddof=1) - (array + within / n) / arrays
    assert arrays >= 4 and within == pytest.approx(v.within**2, rel=0.02)
    assert array == pytest.approx(v.array**2, rel=0.1)
    assert between == pytest.approx(v.between**2, rel=0.12)


def test_arrays_keep_the_normals_of_the_chip():
    """σ_A adds to what a chip had before, whatever the order in which layers are asked for."""
    chip, like = Chip(3), torch.empty(20, 30)
    plain, more = Variation(0.1, 0.2), Variation(0.1, 0.2, array=0.3, rows=8, columns=8)
    added = more.deviation(chip, "a", like) - plain.deviation(chip, "a", like)
    grid = more.grid(like.shape)
    expected = grid.spread(0.3 * chip.z_arrays("a", grid.counts))
    torch.testing.assert_close(added, expected, atol=1e-6, rtol=0)
    more.deviation(chip, "b", like)
    assert torch.equal(more.deviation(chip, "a", like), more.deviation(chip, "a", like))
    assert torch.equal(
        Variation(0.1, 0.2, array=0.0, rows=8).deviation(chip, "a", like), plain.deviation(chip, "a", like)
    )


def test_shares_split_the_variance():
    v = Variation.split(0.4, 0.5, array_share=0.25)
    assert v.total == pytest.approx(0.4) and v.array_share == pytest.approx(0.25)
    assert v.within**2 == pytest.approx(0.08) and v.array**2 == pytest.approx(0.02)
    assert Variation.split(0.4, 0.5) == Variation.split(0.4, 0.5, array_share=0.0)


# -- mappings and the measured law ----------------------------------------------------------------------------


def test_a_differential_pair_cancels_a_shared_offset_and_keeps_a_shared_gain():
    w = torch.randn(30, 20, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    fixed = Variation(between=0.3, law="layer-fixed", mapping="differential").deviate(Chip(1), "a", w)(w)
    torch.testing.assert_close(fixed, w)
    gain = Variation(between=0.3, mapping="differential").deviate(Chip(1), "a", w)(w)
    torch.testing.assert_close(gain, Variation(between=0.3).deviate(Chip(1), "a", w)(w))


def test_the_own_part_of_a_differential_pair_grows_by_the_root_of_two():
    w = torch.zeros(400, 400)
    w[0, 0] = 1.0
    own = Variation(0.2, law="layer-fixed", mapping="differential").deviate(Chip(0), "a", w)(w) - w
    assert own.std() == pytest.approx(0.2 * 2**0.5, rel=0.01)
    w = torch.ones(400, 400)  # the second cell holds zero, which deviates under no proportional law
    own = Variation(0.2, mapping="differential").deviate(Chip(0), "a", w)(w) - w
    assert own.std() == pytest.approx(0.2, rel=0.01)


@pytest.mark.parametrize("law", LAWS)
def test_gradients_pass_a_differential_pair(law):
    w = torch.tensor([[0.5, -1.0, 0.3], [0.0, 0.7, -0.2]], dtype=torch.double, requires_grad=True)
    v = Variation(0.1, 0.1, law, mapping="differential", **LAWS[law])
    deviate = v.deviate(Chip(5), "a", w)
    deviate(w).sum().backward()
    inside = w.detach() != 0
    moved = w.detach().clone().requires_grad_()
    torch.autograd.gradcheck(lambda t: deviate(torch.where(inside, t, 0.0))[inside], (moved,))
    alone = Variation(law="proportional", mapping="differential", between=1e-9).deviate(Chip(5), "a", w)
    w.grad = None
    alone(w).sum().backward()
    torch.testing.assert_close(w.grad, torch.ones_like(w), atol=1e-6, rtol=0)  # ½ + ½ where w = 0


def test_the_measured_law_is_the_polynomial():
    w = torch.tensor([0.0, 0.25, -0.5, 1.0], dtype=torch.double) * 3
    g, e = (w / 3).abs(), torch.tensor([0.1, -0.2, 0.3, 0.4], dtype=torch.double)
    sigma = CURVE[0] + CURVE[1] * g + CURVE[2] * g**2
    torch.testing.assert_close(Measured(CURVE)(w, e), w + 3 * e * sigma)
    torch.testing.assert_close(Measured((1.0,))(w, e), w + 3 * e)  # layer-fixed
    torch.testing.assert_close(Measured((0.0, 1.0))(w, e), w + e * w.abs())


# -- references where the cells are ---------------------------------------------------------------------------


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("rows,columns", [(256, 256), (10, 4)])
def test_without_own_deviations_the_oracle_restores_the_ideal_output(net, x, law, mapping, rows, columns):
    hardware = {"rows": rows, "columns": columns, "mapping": mapping, **LAWS[law]}
    with evaluating(net):
        ideal = net(x)
        for estimator, alpha in ((Oracle("array"), 0.5), (Oracle("chip"), 0.0), (Oracle("array"), 1.0)):
            v = Variation.split(0.2, 1.0, law, array_share=alpha, **hardware)
            with programmed(net, Chip(4), v, SelfTuning(estimator)):
                torch.testing.assert_close(net(x), ideal, rtol=0, atol=1e-10)
        v = Variation.split(0.2, 1.0, law, array_share=0.5, **hardware)
        with programmed(net, Chip(4), v, SelfTuning(Oracle("chip"))):
            tuned = net(x)
        cancels = law == "layer-fixed" and mapping == "differential"
        assert torch.allclose(tuned, ideal, atol=1e-10) == cancels  # a chip-wide estimate does not know its arrays


ESTIMATORS = (
    Oracle("array"),
    ReferenceCells(5),
    ReferenceCells(3, per="array"),
    ReferenceColumns(2),
    ReferenceColumns(2, per="array"),
)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: e.label)
@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("law", LAWS)
def test_folded_and_unfolded_evaluation_agree(net, x, law, mapping, estimator):
    v = Variation.split(0.2, 0.5, law, array_share=0.5, rows=10, columns=4, mapping=mapping, **LAWS[law])
    with evaluating(net), programmed(net, Chip(2), v, SelfTuning(estimator)):
        slowly = net(x)
        with folded(net, None, plan(net, x)):
            torch.testing.assert_close(net(x), slowly, rtol=1e-12, atol=1e-12 * float(slowly.abs().max()))


def test_each_array_has_references_of_its_own_and_more_keep_the_first(net):
    v = Variation.split(0.3, 0.5, array_share=0.5, rows=10, columns=4)
    layer = dict(crossbars(net))["first"]
    told = {n: ReferenceCells(n, per="array").known(layer, "first", Chip(1), v) for n in (1, 2, 10_000)}
    true = v.of_arrays(Chip(1), "first", grid_of(layer, v))
    assert told[1].shape == true.shape == (1, 13, 5) and len(told[1].unique()) == 65
    assert (told[10_000] - true).abs().max() < 5 * v.within / 100
    z = Chip(1).z_reference(2, "first", (1, 13, 5))[:, 0, 0, 0].numpy()
    assert float(told[2].flatten()[0] - true.flatten()[0]) == pytest.approx(v.within * z.mean(), abs=1e-7)


@pytest.mark.parametrize("per", ["chip", "array"])
def test_the_error_of_an_estimate_is_as_the_formula_says(net, per):
    """Var(ê − e_B − e_A) over chips and arrays: σ_A²(1 − 1/A) + σ_W²/n from the chip, σ_W²/n in the array."""
    v = Variation.split(0.3, 0.6, array_share=0.4, rows=40, columns=10)
    grids = grids_of(net, v)
    arrays = sum(grid.arrays for _, grid in grids)
    laid, estimator, squares = v.laid(grids), ReferenceCells(16, per=per), []
    for i in range(1500):
        chip = Chip.of("validation", i)
        true = torch.cat([v.of_arrays(chip, name, grid).flatten() for name, grid in grids])
        if per == "chip":
            error = estimator.read(chip, laid) - true
        else:
            layers = dict(crossbars(net))
            error = torch.cat([estimator.known(layers[name], name, chip, v).flatten() for name, _ in grids]) - true
        squares.append(float(error.square().mean()))
    assert np.mean(squares) == pytest.approx(estimator.mismatch(v, arrays), rel=0.05)


@pytest.mark.parametrize("law", ["proportional", "layer-fixed"])
def test_what_differing_arrays_cost_an_output_is_as_the_formula_says(net, law):
    layer = dict(crossbars(net))["first"]
    v = Variation(0.0, 0.0, law, array=0.02, rows=30, columns=7)
    grid, x = grid_of(layer, v), torch.rand(3, 128, generator=torch.Generator().manual_seed(3)).double()
    laid, w = v.laid([("first", grid)]), layer.quantize_weight(layer.weight).detach()
    nominal, errors = layer.op(x, w), []
    for i in range(1500):
        chip = Chip.of("validation", i)
        slot = correction_for(law).slot(Oracle("chip"), layer, "first", chip, laid)
        errors.append(slot(layer.op(x, v.deviate(chip, "first", w)(w)), x) - nominal)
    found = torch.stack(errors).var(0)
    expected = mismatch_error(layer, x, v, grid.arrays)
    assert float((found / expected).mean()) == pytest.approx(1, abs=0.05)
    assert expected.shape == nominal.shape and bool(((found / expected - 1).abs() < 0.25).all())


def test_cost_counts_arrays_and_pairs(net, x):
    v = Variation(rows=10, columns=4)
    arrays = sum(grid.arrays for _, grid in grids_of(net, v))
    weights = sum(layer.weight.numel() for _, layer in crossbars(net))
    chip, each = ReferenceCells(64), ReferenceCells(2, per="array")
    assert cost(SelfTuning(chip), net, x, v).cells == 64 and cost(SelfTuning(each), net, x, v).cells == 2 * arrays
    assert cost(SelfTuning(each), net, x, v).operations > 0 == cost(SelfTuning(chip), net, x, v).operations
    assert cost(SelfTuning(each), net, x, Variation()).operations == 0  # each layer but the groups on one array
    pairs = Variation(rows=10, columns=4, mapping="differential", law="layer-fixed")
    assert cost(SelfTuning(chip), net, x, pairs).operations == 0
    assert cost(SelfTuning(chip), net, x, pairs).cell_share == pytest.approx(64 / (2 * weights))
    both = [{row.name: row.cells for row in report(net, mapping)} for mapping in MAPPINGS]
    assert all(both[1][name] == 2 * cells for name, cells in both[0].items()) and sum(both[0].values()) == weights
    columns = ReferenceColumns(2, per="array").cells(net, v)
    assert columns > ReferenceColumns(2).cells(net, v) == ReferenceColumns(2).cells(net)


def test_training_sees_arrays_and_pairs(images):
    plain = nn.Sequential(nn.Flatten(), nn.Linear(144, 10))
    net = to_analog(plain, "A4W4", images.normalized())
    v = Variation(0.1, array=0.1, rows=16, columns=4, mapping="differential")
    plainly = copy.deepcopy(net)
    fit(net, images, Recipe(epochs=20, batch_size=32, lr=0.05), v)
    fit(plainly, images, Recipe(epochs=20, batch_size=32, lr=0.05))
    found = [evaluate(one, images, v, 20).accuracy.mean() for one in (net, plainly)]
    assert found[0] > 80 and not torch.equal(net[1].weight, plainly[1].weight)


# -- bad input ------------------------------------------------------------------------------------------------

REFUSED = {
    "no rows": lambda: Variation(0.1, rows=0),
    "half a column": lambda: Variation(0.1, columns=1.5),
    "a share above 1": lambda: Variation.split(0.1, 0.5, array_share=1.5),
    "a negative array": lambda: Variation(0.1, array=-0.1),
    "unknown mapping": lambda: Variation(0.1, mapping="triple"),
    "a curve below zero": lambda: Variation(0.1, law="measured", curve=(0.1, -0.5)),
    "a curve below zero inside": lambda: Variation(0.1, law="measured", curve=(0.1, -1.0, 1.0)),
    "no curve": lambda: Variation(0.1, law="measured"),
    "a curve too many": lambda: Variation(0.1, curve=(0.1,)),
    "another per": lambda: ReferenceCells(3, per="layer"),
    "an oracle of nothing": lambda: Oracle("wafer"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_hardware_is_refused_in_one_line(case):
    with pytest.raises(InputError) as caught:
        REFUSED[case]()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
