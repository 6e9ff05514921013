"""PURE: what approvals, tokens and receipts are bound to: a hash of the canonical arguments."""

import hashlib
import json
from typing import Any


def canonical(value: Any) -> str:
    """The one JSON text of a value: keys in order, no white space."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def digest(tool: str, args: dict[str, Any]) -> str:
    """The SHA-256 of a tool's call, in hex: equal for equal arguments in any order, and for no
    others."""
    return hashlib.sha256(canonical([tool, args]).encode()).hexdigest()
