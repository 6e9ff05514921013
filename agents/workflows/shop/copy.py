"""Product copy from a product's attributes, and from nothing else.

The routine model writes the first lines; every fact in them is checked against the attributes, and
lines that say more are not taken. Below stands each attribute as it is. Where the model gives
nothing that holds, the attributes stand alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from agents.grounding import check
from agents.packs import PackParts
from agents.references import References
from agents.workflows import prompts
from agents.workflows.answering import SHOP
from agents.workflows.prompts import Evidence
from cluster.errors import DeadlineExceeded, Unavailable

_CHANNEL: Final = "newsletter"
_LEADING: Final = ("material", "maker", "size", "guarantee", "care", "height", "diameter")
"""What is worth saying first."""
_SENTENCES: Final = {
    "material": "The {title} is made of {value}.",
    "maker": "The {title} is made by {value}.",
    "size": "The {title} measures {value}.",
    "height": "The {title} is {value} high.",
    "diameter": "The {title} is {value} across.",
    "weight": "The {title} weighs {value}.",
    "guarantee": "The {title} has a guarantee of {value}.",
}
_ATTEMPTS: Final = 2
_TOKENS: Final = 160


def facts_of(title: str, attributes: Mapping[str, str]) -> list[Evidence]:
    """The attributes as sentences about the product, what is worth saying first in front."""
    first = [name for name in _LEADING if name in attributes]
    rest = [name for name in attributes if name not in first]
    return [
        Evidence(f"E{number}", f"attribute:{name}", _sentence(title, name, attributes[name]))
        for number, name in enumerate((*first, *rest), 1)
    ]


def composed(title: str, attributes: Mapping[str, str], lead: str = "") -> str:
    """The copy: its title, the lead, and each attribute on a line."""
    lines = [f"- {name}: {value}" for name, value in attributes.items()]
    head = title[0].upper() + title[1:]
    return "\n".join([head, *([lead] if lead else []), *lines])


async def write(
    parts: PackParts, run_id: str, title: str, attributes: Mapping[str, str], tone: str
) -> dict[str, Any]:
    """The copy (`text`), who wrote its lead (`by`: a model's id, or "" for nobody), what was wrong
    with leads that were not taken (`left_out`), what of the copy is in no attribute (`findings`)
    and what it took (`usage`)."""
    references = References()
    facts = facts_of(title, attributes)
    evidence = [Evidence(e.id, e.source, references.rewrite(e.text)) for e in facts]
    points = "\n".join(f"- {e.id}: {e.source.partition(':')[2]}" for e in evidence[:2])
    messages = prompts.posts_messages(
        topic=title, tone=tone, outline=f"# {title}\n{points}", evidence=evidence,
        channels=[_CHANNEL],
    )  # fmt: skip
    usage: list[dict[str, Any]] = []
    left_out: list[str] = []
    lead, by = "", ""
    for attempt in range(_ATTEMPTS):
        try:
            answer = await parts.chat.complete(
                parts.routine, messages, max_tokens=_TOKENS, timeout_s=parts.model_timeout_s,
                request_id=f"{run_id}-copy-{attempt}", seed=attempt, temperature=0.4 * attempt,
            )  # fmt: skip
        except (Unavailable, DeadlineExceeded) as error:
            left_out.append(str(error))
            break
        usage.append(answer.usage())
        draft = answer.text.strip().removeprefix(f"{_CHANNEL}:").strip()
        wrong = [str(f) for f in check(draft, evidence, references, SHOP)]
        if not wrong and not answer.truncated:
            lead = references.render(prompts.without_citations(draft))
            by = answer.model
            break
        left_out += wrong or ["cut off"]
    text = composed(title, attributes, lead)
    return {
        "text": text, "by": by, "left_out": left_out, "usage": usage,
        "findings": findings(text, title, attributes),
    }  # fmt: skip


def findings(text: str, title: str, attributes: Mapping[str, str]) -> list[str]:
    """The values of a copy that stand in no attribute: what must be empty before it goes out."""
    known, spelt = References(), References()
    known.rewrite(f"{title} {' '.join(attributes.values())}")
    spelt.rewrite(text)
    values = {value.casefold() for _, value in known.items()}
    return [f"not in the attributes: {v}" for _, v in spelt.items() if v.casefold() not in values]


def _sentence(title: str, name: str, value: str) -> str:
    form = _SENTENCES.get(name, "The {name} of the {title} is {value}.")
    return form.format(title=title, name=name, value=value)


__all__: Sequence[str] = ("composed", "facts_of", "findings", "write")
