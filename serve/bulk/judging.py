"""PURE: whether an answer is what its line expects: an evaluation is a batch whose lines say that.

A text is expected of what a model wrote (without regard to case and space around it) or of how a
run ended (its decision). An object is expected key by key: of a run its `decision`, `status`,
`done` (the tools of what was done, in order) and the keys of its result; of any other answer the
keys of its body.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from serve.bulk.lines import Answered

NOT_EXPECTED: Final = "not_as_expected"


def judged(answer: Answered, expect: str) -> Answered:
    """The answer, with the reason of why it is not right if it is not what `expect` says, JSON. An
    answer that is wrong by itself, or of which nothing is expected, is left as it is."""
    if not expect or not answer.right:
        return answer
    wanted, body = json.loads(expect), json.loads(answer.body)
    if isinstance(wanted, dict):
        got = _findings(body)
        wrong = [f"{k} is {_short(got.get(k))}, not {_short(v)}" for k, v in wanted.items()
                 if got.get(k) != v]  # fmt: skip
    else:
        said = _said(body)
        same = said.strip().casefold() == str(wanted).strip().casefold()
        wrong = [] if same else [f"it is {_short(said)}, not {_short(wanted)}"]
    return replace(answer, code=NOT_EXPECTED, message="; ".join(wrong)) if wrong else answer


def _findings(body: Any) -> Mapping[str, Any]:
    if not isinstance(body, dict):
        return {}
    if body.get("object") != "run":
        return body
    done = [e["tool"] for e in body.get("effects", ()) if e.get("state") == "DONE"]
    own = {"decision": body.get("decision"), "status": body.get("status"), "done": done}
    return {**(body.get("result") or {}), **own}


def _said(body: Any) -> str:
    """What a model wrote, or how a run ended; "" where there is neither."""
    if not isinstance(body, dict):
        return ""
    if body.get("object") == "run":
        return str(body.get("decision"))
    try:
        if "choices" in body:
            first = body["choices"][0]
            return str(first["message"]["content"] if "message" in first else first["text"])
        parts = [part for item in body["output"] for part in item.get("content", ())]
        return "".join(part.get("text", "") for part in parts)
    except (KeyError, IndexError, TypeError, AttributeError):
        return ""


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:119]}\u2026"
