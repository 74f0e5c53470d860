"""What the studies ask for, and how its results are looked up again."""

import numpy as np
import pandas as pd
import pytest

from lib import Variation
from lib.companion import accuracy_vs_sigma, cases, figures, self_tuning, studies, within_and_between_chips
from lib.companion.profiles import profile
from lib.experiments.engine import merged
from lib.trials import Measurement


@pytest.mark.parametrize("name", ["smoke", "quick"])
@pytest.mark.parametrize("number", studies.ALL)
def test_studies_name_every_measurement_once(name, number):
    wanted = merged(studies.ALL[number](profile(name)))
    if number == "07":  # these profiles repeat no published figure
        return
    assert wanted and all(m.purpose == "test" for m in wanted)
    rows = pd.DataFrame([m.row() for m in wanted])
    assert not rows.duplicated().any(), rows[rows.duplicated(keep=False)]


def test_claims_of_quick_stand_on_100_chips_and_all_images():
    quick = profile("quick")
    for study in (within_and_between_chips.measurements, self_tuning.measurements):
        full = [m for m in merged(study(quick)) if m.variation and m.images_per_chip is None]
        assert full and all(m.chips >= 100 and m.images == quick.test_images for m in full)


def test_choices_are_made_on_validation_images_and_chips():
    quick = profile("quick")
    for setting in quick.settings:
        assert {m.purpose for m in accuracy_vs_sigma.validation(quick, setting, ("A4W2", "A4W4"))} == {"validation"}


def test_mixed_networks_differ_in_training_alone():
    setting = profile("quick").settings[1]
    for law, sigma in setting.sigma.items():
        nets = cases.networks(setting, law)
        assert nets["QAVAT"].variation == Variation(sigma, law=law)
        mixed = nets["QAVAT mixed"].variation
        assert mixed == Variation.split(sigma, 0.5, law) and mixed.total == pytest.approx(sigma)
        assert nets["QAT"].variation == Variation() and len({n.recipe for n in nets.values()}) == 1


@pytest.mark.parametrize("name", ["smoke", "quick"])
def test_parts_cover_every_crossbar_once(name):
    for setting in profile(name).settings:
        layers = [layer for part in within_and_between_chips.parts_of(setting).values() for layer in part]
        assert len(layers) == len(set(layers)) == {"lenet5": 5, "resnet18": 21}[setting.network]


def table_of(measurements, values):
    frames = []
    for i, (m, accuracies) in enumerate(zip(measurements, values)):
        frame = pd.DataFrame({"chip": range(len(accuracies)), "accuracy": accuracies})
        frames.append(frame.assign(**m.row(), key=f"key {i}"))
    return pd.concat(frames, ignore_index=True)


def test_findings_look_up_what_was_measured():
    smoke = profile("smoke")
    wanted = merged(self_tuning.measurements(smoke))
    table = table_of(wanted, [[float(i), i + 0.5] for i in range(len(wanted))])
    results = cases.indexed(table.sample(frac=1, random_state=0))
    setting = smoke.settings[1]
    for i, m in enumerate(wanted):
        if m.trial.network != setting.network or m.trial.method not in ("QAT", "QAVAT"):
            continue
        label, sweep = m.tuning.label if m.tuning else "none", m.images_per_chip is not None
        trained = m.trial.variation.total if m.trial.method == "QAVAT" else None
        law = m.trial.variation.law if m.trial.method == "QAVAT" and not m.variation else m.variation.law
        variation = m.variation if m.variation else Variation(law=law)
        found = cases.chips_of(results, setting, m.trial.method, variation, label, sweep, trained)
        assert found.tolist() == [float(i), i + 0.5], m.label
    assert len(cases.chips_of(results, setting, "QAVAT", Variation(0.123))) == 0


def test_two_results_under_one_label_are_refused():
    m = Measurement(cases.trial(profile("smoke").settings[0], "QAT", "A4W2"), Variation(0.3), 2)
    with pytest.raises(ValueError, match="2 results share the identity.*labels that differ"):
        cases.indexed(table_of([m, m], [[1.0, 2.0], [3.0, 4.0]]))


def test_alt_text_tells_ends_and_single_bars():
    bars = {"net": ["QAT"] * 3 + ["QAVAT"], "mean": [80.2, np.nan, 40.4, 0.5]}
    rows = pd.DataFrame({"network": "lenet5", "law": "a", **bars})
    assert figures.told(rows, ["network", "law"], "net", "mean") == "LeNet-5, a: QAT from 80 to 40, QAVAT 0.5."
