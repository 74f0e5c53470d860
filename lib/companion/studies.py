"""Which notebook measures what."""

from ..trials import Measurement
from . import (
    accuracy_vs_sigma,
    cost_of_self_tuning,
    on_silicon,
    paper_versus_ours,
    quantizers,
    self_tuning,
    start_here,
    variation_and_chips,
    within_and_between_chips,
)
from .profiles import Profile

ALL = {
    "00": start_here.measurements,
    "01": quantizers.measurements,
    "02": variation_and_chips.measurements,
    "03": accuracy_vs_sigma.measurements,
    "04": within_and_between_chips.measurements,
    "05": self_tuning.measurements,
    "06": cost_of_self_tuning.measurements,
    "07": paper_versus_ours.measurements,
    "09": on_silicon.measurements,
}


SEEDS = ("03", "04", "05", "06", "07", "09")  # these read every seed of a profile, the others that of their notebook


def every_measurement(profile: Profile, notebooks) -> list[Measurement]:
    """The union of the studies behind some notebooks ("00", …)."""
    return [
        case.measurement
        for name in notebooks
        if name in ALL
        for seed in (profile.seeds if name in SEEDS else profile.seeds[:1])
        for case in ALL[name](profile, seed)
    ]
