"""What an order of requests recovers of the gap between two models."""

import numpy as np
import pytest

from cluster.errors import InvalidInput
from serve.quality_metrics import apgr, cpt, recovered

WEAK = np.array([True, False, False, True])
STRONG = np.array([True, True, True, False])
GAIN = np.array([0.0, 1.0, 0.9, -1.0])


def test_the_best_order_recovers_more_than_the_gap_before_the_last_call() -> None:
    assert recovered(GAIN, WEAK, STRONG).tolist() == [0.0, 1.0, 2.0, 2.0, 1.0]
    assert apgr(recovered(GAIN, WEAK, STRONG)) > 0.5 > apgr(recovered(-GAIN, WEAK, STRONG))


def test_the_calls_needed_for_a_share_of_the_gap_are_the_fewest() -> None:
    assert cpt(recovered(GAIN, WEAK, STRONG), 0.8) == 0.25
    assert cpt(recovered(-GAIN, WEAK, STRONG), 0.8) == 1.0


def test_a_random_order_recovers_half_on_average() -> None:
    rng = np.random.default_rng(0)
    found = [apgr(recovered(rng.random(4), WEAK, STRONG)) for _ in range(4000)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.05)


def test_no_gap_and_unequal_lengths_are_refused() -> None:
    with pytest.raises(InvalidInput):
        recovered(GAIN, STRONG, STRONG)
    with pytest.raises(InvalidInput):
        recovered(GAIN[:2], WEAK, STRONG)
