"""A page of a list, in OpenAI's form."""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from cluster.errors import InvalidInput

MAX_LISTED: Final = 1_000

T = TypeVar("T")


def listing(
    limit: int, found: Callable[[int], Sequence[T]], shown: Callable[[T], dict[str, Any]]
) -> dict[str, Any]:
    """Up to `limit` of what `found` gives when it is asked for so many.

    Raises InvalidInput for a limit that is none."""
    if not 1 <= limit <= MAX_LISTED:
        raise InvalidInput("limit", limit, f"1 to {MAX_LISTED}")
    rows = found(limit + 1)
    return page([shown(row) for row in rows[:limit]], len(rows) > limit)


def page(data: Sequence[dict[str, Any]], more: bool) -> dict[str, Any]:
    """These rows, each with its `id`, as a page behind which there are `more`."""
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
    return {
        "object": "list", "data": data, "first_id": None, "last_id": None, **ends,
        "has_more": more,
    }  # fmt: skip
