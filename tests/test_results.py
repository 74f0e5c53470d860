"""`fit` and `evaluate` with a memory: what they computed once for the same arguments is the store's."""

import pytest
import torch
from torch import nn

from lib import Chip, Recipe, Variation, evaluate, fit, to_analog
from lib.experiments import results, workers
from lib.experiments.settings import Settings

RECIPE = Recipe(epochs=2, batch_size=32, bn_draws=2)


def test_fit_and_evaluate_remember_what_they_did(tmp_path, images, monkeypatch):
    """Notebook 08's: as the plain functions, to the bit; again only where an argument is another one."""
    memory, plain, mine = results.Memory(Settings.read(cache=tmp_path)), net_of(images), net_of(images)
    with workers.pinned():
        fit(plain, images, RECIPE, Variation(0.3), seed=1)
        expected = evaluate(plain, images, Variation(0.5), 3)
    memory.fit(mine, images, RECIPE, Variation(0.3), seed=1)
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), mine.state_dict().values()))
    assert (memory.evaluate(mine, images, Variation(0.5), 3).correct == expected.correct).all()
    lot = memory.evaluate(mine, images, chips=2, variation=Variation(0.1, 0.2), purpose="validation")
    assert lot.places.tolist() == [Chip.of("validation", i).place for i in range(2)]
    for name in ("fit", "evaluate"):
        monkeypatch.setattr(results, name, lambda *a, **o: pytest.fail("it is remembered"))
    again = net_of(images)
    memory.fit(again, images, RECIPE, Variation(0.3), seed=1)
    assert (memory.evaluate(again, images, Variation(0.5), 3).correct == expected.correct).all() and not again.training
    for call in (
        lambda: memory.fit(net_of(images), images, RECIPE, Variation(0.2), seed=1),
        lambda: memory.evaluate(again, images, Variation(0.5), 4),
    ):
        with pytest.raises(pytest.fail.Exception, match="remembered"):
            call()


def net_of(images):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(400, 3))
    return to_analog(net, "A4W4", images.normalized())
