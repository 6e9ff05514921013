"""The short form of `make bench-budgets`: real gateway processes, one of them killed on the way."""

from pathlib import Path

import pytest

from benchmarks.budgets import figures, measure


# The gateways and the stand-in for the engine listen on loopback.
@pytest.mark.timeout(120)
async def test_a_dollar_is_not_exceeded_when_a_gateway_is_killed(tmp_path: Path) -> None:
    done = await measure("sqlite:///accounts.db", tmp_path, repeats=1, clients=60, gateways=2)
    (repeat,) = done
    assert repeat.lost > 0, "requests were under way when it was killed"
    assert [f.name for f in figures(done) if f.met is False] == []
    assert repeat.told <= repeat.spent + 1e-6, "nothing was answered that was not charged"
