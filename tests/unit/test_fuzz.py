"""Every endpoint, fuzzed from its own description: whatever is sent, nothing is a 5xx.

The gateway is the real app over real databases, a real orchestrator and a real memory; the engines
answer what they are asked.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from tests.unit.test_agent_api import listening
from tests.whole import served

pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout(240)]
EXAMPLES: Final = 6
WAIT_S: Final = 20.0
# They wait for what never comes when nobody answers: tried in their own tests.
LONG: Final = {"/v1/runs/{run}/events"}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("fuzz"), listening) as (at, _):
        yield at


def known(case: Any, number: int) -> None:
    """Name what there is in two cases of three, so that more than its absence is found."""
    if number % 3 == 0:
        return
    body = case.body
    if isinstance(body, dict) and "model" in body:
        body["model"] = "minilm" if "embeddings" in case.path else "small"
    if isinstance(body, dict) and "workflow" in body:
        body["workflow"] = "conversation"
    for name in case.path_parameters or {}:
        case.path_parameters[name] = {"agent": "ann", "name": "small"}.get(name, "unknown")


def test_no_endpoint_answers_with_a_5xx(url: str) -> None:
    httpx.post(f"{url}/v1/agents", json={"id": "ann"}).raise_for_status()
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    found: list[Any] = []
    seen: Counter[int] = Counter()
    operations: list[Any] = [result.ok() for result in schema.get_all_operations()]  # type: ignore[union-attr]
    assert len(operations) > 40
    for operation in operations:
        if operation.path in LONG:
            continue

        @settings(
            max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
            phases=[Phase.generate], suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy())
        def fuzz(case: Any) -> None:
            known(case, seen.total())
            answer = case.call(base_url=url, timeout=WAIT_S)
            seen[answer.status_code] += 1
            if answer.status_code >= 500:
                found.append((case.method, case.path, case.body, case.query, answer.text[:300]))

        fuzz()
    assert found == []
    # What is sent gets through as well as being refused.
    assert seen[200] > 20 and seen[400] > 20
