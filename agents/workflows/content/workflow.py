"""The workflow `content`: a brief becomes a published piece that says only what the brief says.

    discover -> plan -> outline -> texts -> checks -> (wait until publish_at) -> publish -> remember

A run with task "engagement" writes back what a piece has had, and the next brief's plan cites it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from agents.packs import Pack, PackParts
from agents.state import RunState
from agents.taint import GIVEN, Label, for_record
from agents.tools import Tool
from agents.turn import Acted, Turn
from agents.workflows.content import article, outline, plan, seo, writing
from agents.workflows.content.brief import Brief
from agents.workflows.content.desk import ContentDesk
from agents.workflows.content.evidence import about, facts_of, fitting, in_common
from agents.workflows.content.outline import Writer
from cluster.errors import DeadlineExceeded, Overloaded, Unavailable
from cluster.ids import Clock
from cluster.telemetry import logger
from memory.log import Note
from memory.records import Origin, Record

NAME: Final = "content"
PROMOTION: Final = "rule:published"
"""What is published is for everybody, and so for memory of every workflow."""
PIECE: Final = "piece"
"""The kind of a published piece's record in memory."""
OWN: Final = Label("trusted", "tenant")
"""What our own desk says of our own pieces."""
_RELATED: Final = 3
log = logger("content")

DISCOVER: Final = Tool(f"{NAME}.discover", (), "read", returns=OWN)
SEARCH: Final = Tool(f"{NAME}.search", ("topic", "audience"), "read", control={})
PUBLISH: Final = Tool(
    f"{NAME}.publish", ("piece",), "write", terminal=True, control={},
    facts={
        "grounded": "Bool", "taken": "Bool", "outside": "Bool", "sections": "Long",
        "hard_flaws": "Long",
    },
)  # fmt: skip
ENGAGE: Final = Tool(
    f"{NAME}.engage", ("channel", "views", "clicks"), "write", terminal=True,
    control={"channel": ("channel",), "views": ("views",), "clicks": ("clicks",)},
    facts={"views": "Long", "clicks": "Long"},
)  # fmt: skip


async def work(turn: Turn, brief: Brief, parts: PackParts) -> None:
    """Bring a brief to its end."""
    if brief.task == "engagement":
        return await _engage(turn, brief)
    thing = brief.about or about(brief.topic)
    facts, left = facts_of(brief.text, len(brief.sources), thing)
    found = await turn.act("discover", DISCOVER.name, {})
    if found.receipt is None:
        return await turn.end("failed", f"no look at the desk: {_why(found)}", {})
    ideas = await _ideas(turn, brief, found.receipt)
    pieces: list[dict[str, Any]] = found.receipt["pieces"]

    async def think() -> dict[str, Any]:
        kinds = [fact.kind for fact in fitting(facts, thing)]
        seen = plan.seen_of(pieces)
        return plan.plan(seen, brief.channels, kinds, ideas["channels"]).as_json()

    planned = await turn.phase("plan", think, lambda _: GIVEN)
    writer = Writer(
        parts.chat, parts.routine, parts.model_timeout_s, turn.run.run_id,
        brief.topic, brief.audience, brief.tone,
    )  # fmt: skip
    outlined = await turn.phase("outline", lambda: outline.outlined(writer, facts, thing))
    kinds = [choice["name"] for choice in planned["kinds"]]
    told = writing.told(facts, outlined["points"], kinds)
    text = await turn.phase(
        "texts", lambda: writing.written(writer, told, planned["channels"], brief.link)
    )
    piece = article.piece_of(brief, facts, text, _related(pieces, thing))

    async def check() -> dict[str, Any]:
        return seo.checked(piece, brief.keywords)

    checks = await turn.phase("checks", check)
    result = _result(piece, planned, ideas, outlined, text, checks)
    result["left_out"] = [*(row.as_json() for row in left), *outlined["left_out"]]
    await _until(turn, brief, parts.clock)
    published = await turn.act("publish", PUBLISH.name, {"piece": piece})
    if published.receipt is None:
        ended = "held" if published.decision.answer == "ask" else "refused"
        return await turn.end(ended, _why(published), result)
    result["published"] = published.receipt
    await _remember(turn, parts, piece)
    return await turn.end("published", published.decision.reason, result)


async def _ideas(turn: Turn, brief: Brief, found: Mapping[str, Any]) -> dict[str, Any]:
    """What a search service suggests, if there is one and it answers."""
    none: dict[str, Any] = {"topics": [], "channels": []}
    if not found["search"]:
        return none
    args = {"topic": brief.topic, "audience": brief.audience}
    searched = await turn.act("search", SEARCH.name, args)
    return searched.receipt or {**none, "problem": _why(searched)}


async def _until(turn: Turn, brief: Brief, clock: Clock) -> None:
    if brief.publish_at is not None:
        seconds = brief.publish_at.timestamp() - clock.now()
        if seconds > 0 or "publish-at" in turn.run.waited:
            await turn.sleep("publish-at", max(0.0, seconds))


async def _engage(turn: Turn, brief: Brief) -> None:
    args = {"channel": brief.channel, "views": brief.views, "clicks": brief.clicks}
    acted = await turn.act("engage", ENGAGE.name, args)
    if acted.receipt is None:
        ended = "held" if acted.decision.answer == "ask" else "refused"
        return await turn.end(ended, _why(acted), args)
    return await turn.end("recorded", acted.decision.reason, {"engagement": acted.receipt})


async def _remember(turn: Turn, parts: PackParts, piece: article.Piece) -> None:
    """Keep the piece, once however often it is done. It is published all the same when memory is
    away; the journal has it."""
    record = Record(
        turn.run.tenant, PIECE, f"{NAME}:{piece['slug']}", article.plain(piece),
        event_at=turn.run.started_at,
        meta={"topic": piece["topic"], "title": piece["title"]},
        labels=for_record(Label("untrusted", "public")),
        origin=Origin("run", run=turn.run.run_id),
    )  # fmt: skip
    try:
        await parts.memory.remember([record], Note(PROMOTION, f"run {turn.run.run_id}"))
    except (Unavailable, Overloaded, DeadlineExceeded) as error:
        log.warning("run %s is not remembered: %s", turn.run.run_id, error)


def _related(pieces: Sequence[Mapping[str, Any]], thing: str) -> list[Mapping[str, str]]:
    """Earlier pieces that share a word with what this one is about and can be linked to."""
    scored = [(in_common(thing, p["topic"]), p) for p in pieces if p["url"]]
    best = sorted((row for row in scored if row[0]), key=lambda row: -row[0])
    return [piece for _, piece in best[:_RELATED]]


def _result(
    piece: article.Piece, planned: dict[str, Any], ideas: dict[str, Any],
    outlined: dict[str, Any], text: dict[str, Any], checks: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    return {
        "slug": piece["slug"], "title": piece["title"], "description": piece["description"],
        "plan": planned, "ideas": ideas, "article": article.markdown(piece),
        "outline": {name: outlined[name] for name in ("points", "added", "by")},
        "posts": text["posts"], "skipped": text["skipped"],
        "sections": [{"heading": s["heading"], "by": s["by"]} for s in text["sections"]],
        "findings": text["findings"], "checks": checks,
        "problems": [*outlined["problems"], *text["problems"]],
        "usage": [*outlined["usage"], *text["usage"]],
    }  # fmt: skip


def _why(acted: Acted) -> str:
    if acted.refusal is not None:
        return acted.refusal[1]
    return f"{acted.decision.reason} [{acted.decision.rule}]"


def facts(tool: str, args: Mapping[str, Any], run: RunState) -> dict[str, Any]:
    """See `agents.packs.Pack`. What was not done yet counts as the worst."""
    if tool == "publish":
        texts = run.phases.get("texts", {})
        flaws = run.phases.get("checks", {}).get("flaws", [{"severity": "hard"}])
        return {
            "grounded": not texts.get("findings", ["nothing was written"]),
            "taken": bool(run.receipts.get("discover", {}).get("taken", True)),
            "outside": bool(run.options.untrusted),
            "sections": len(texts.get("sections", [])),
            "hard_flaws": sum(flaw["severity"] == "hard" for flaw in flaws),
        }
    if tool == "engage":
        return {"views": int(args.get("views", 0)), "clicks": int(args.get("clicks", 0))}
    return {}


def desk(folder: Path, clock: Clock) -> ContentDesk:
    """See `agents.packs.Pack`."""
    return ContentDesk(folder, clock)


PACK: Final = Pack(
    name=NAME, title="Content: from a brief to a piece and its posts", input=Brief,
    tools=(DISCOVER, SEARCH, PUBLISH, ENGAGE), work=work, desk=desk, facts=facts,
)  # fmt: skip
