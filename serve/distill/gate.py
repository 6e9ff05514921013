"""Does the evaluation beside a candidate speak for it? Nothing overrides a no."""

from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from cluster.errors import Conflict, DataError
from serve.distill.digest import digest
from serve.distill.evaluate import FILE, Comparison

_COMPARISON: Final = TypeAdapter(Comparison)


def accepted(candidate: Path, incumbent: Path) -> Comparison:
    """The candidate's evaluation, if it is of these files, against this incumbent, and not worse.
    Conflict when it is not, DataError when it can't be read."""
    path = candidate / FILE
    ours, theirs = digest(candidate), digest(incumbent)
    if ours == theirs:
        raise Conflict(f"candidate {candidate}", "it is what serves already")
    how = f"run: mainspring distill evaluate {candidate} --incumbent {incumbent}"
    try:
        found = _COMPARISON.validate_json(path.read_bytes())
    except FileNotFoundError:
        raise Conflict(f"candidate {candidate}", f"it has not been evaluated; {how}") from None
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise DataError(str(path), f"not an evaluation: {reason}") from None
    if found.candidate != ours:
        raise Conflict(str(path), f"it is of other files ({found.candidate}, not {ours}); {how}")
    if found.incumbent != theirs:
        raise Conflict(str(path), f"it compares with {found.incumbent}, and {theirs} serves; {how}")
    if found.verdict not in {"better", "not worse"}:
        raise Conflict(f"candidate {candidate}", _against(found))
    return found


def _against(found: Comparison) -> str:
    low, high = found.interval
    return (
        f"the evaluation says {found.verdict!r}: {found.candidate_score:.3f} against "
        f"{found.incumbent_score:.3f} on {found.count} chats, difference {low:+.3f} to {high:+.3f}"
    )
