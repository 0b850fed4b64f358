"""The soak's judgement: a slope counts, noise and steps of a warm-up do not."""

from __future__ import annotations

from random import Random

import pytest

from tests.soak.trend import STRETCHES, trend

TIMES = [float(second) for second in range(200)]


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_no_growth(seed: int) -> None:
    random = Random(seed)
    found = trend(TIMES, [100 + random.gauss(0, 5) for _ in TIMES])
    assert found.at_least < 6


@pytest.mark.parametrize("seed", range(20))
def test_growth_in_noise_is_found(seed: int) -> None:
    random = Random(seed)
    found = trend(TIMES, [100 + time * 0.2 + random.gauss(0, 5) for time in TIMES])
    assert found.growth == pytest.approx(40, abs=8)
    assert found.at_least > 20


def test_a_single_peak_is_no_growth() -> None:
    assert trend(TIMES, [100 + 50 * (time == 190) for time in TIMES]).at_least < 6


def test_too_few_values_give_no_trend() -> None:
    with pytest.raises(ValueError, match="too few"):
        trend(TIMES[: STRETCHES - 1], [1.0] * (STRETCHES - 1))
    with pytest.raises(ValueError, match="too few stretches"):
        trend([1.0] * 20, [1.0] * 20)
