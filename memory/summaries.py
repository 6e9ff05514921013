"""Conversations made short without losing what matters: a summary is accepted only when a probe
finds every critical fact of the originals in it (`memory/probe.py`) and nothing that they do not
say. What is rejected changes nothing.

The model is whatever the caller hands in; without one, the summary is made of the speakers' own
sentences (`memory/quotes.py`). Records that are pinned and the newest ones stay as they are. The
originals stay where they are too: a summary names them as its parents, and `current` says which
records stand for a conversation. A summary of a summary keeps the older one's sentences.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from cluster.errors import InvalidInput
from memory import tokens
from memory.asking import Complete, Count, Unusable, ask, windows
from memory.conversations import KIND, Talk, current, read, rendered, replaceable, talk
from memory.probe import Probe
from memory.quotes import Cited, extract, quoted, repairs
from memory.records import MAX_TEXT_BYTES, Origin, Record

EXTRACTIVE: Final = "extractive"
"""The method of a summary that no model wrote."""
_MOST_REASONS: Final = 20
_NEW_SHARE: Final = 0.25  # of the budget must be new: a summary is not made anew for every message
_NOT_WORTH: Final = "the conversation fits its budget, or is too short"


@dataclass(frozen=True, slots=True)
class Policy:
    """When a conversation is compressed, and what a summary must be.

    budget_tokens is what a conversation may take as it is; recent how many of its newest records
    are left as they are; least_cut the share of tokens that a summary must save; quotes how many
    sentences may be added to it to repair it. window_tokens and window_lines bound what one call of
    the model reads, calls how many there may be, deadline_s (seconds) how long each may take.
    """

    budget_tokens: int = 1_000
    recent: int = 4
    least_cut: float = 0.6
    quotes: int = 12
    window_tokens: int = 200
    window_lines: int = 6
    calls: int = 64
    deadline_s: float = 30.0
    fall_back: bool = False

    def __post_init__(self) -> None:
        for name in ("budget_tokens", "window_tokens", "window_lines", "calls"):
            if getattr(self, name) < 1:
                raise InvalidInput(name, getattr(self, name), "at least 1")
        for name in ("recent", "quotes"):
            if getattr(self, name) < 0:
                raise InvalidInput(name, getattr(self, name), "at least 0")
        if not 0 <= self.least_cut < 1:
            raise InvalidInput("least_cut", self.least_cut, "a share from 0 to below 1")
        if not 0 < self.deadline_s <= 600:
            raise InvalidInput("deadline_s", self.deadline_s, "up to 600 seconds")


POLICY: Final = Policy()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it: the summary's record (None: rejected, or nothing to do), and the reasons:
    why there is none, or why it is not the model's.

    tokens_before counts the originals, those of an older summary among them; tokens_after the
    summary; saved_before is what the older summaries that it replaces had saved already. facts is
    how many critical facts the probe looked for, repaired how many sentences were added because it
    missed some, dropped the model's sentences that rested on nothing.
    """

    record: Record | None
    reasons: tuple[str, ...]
    method: str
    tokens_before: int = 0
    tokens_after: int = 0
    facts: int = 0
    repaired: int = 0
    dropped: tuple[str, ...] = ()
    calls: int = 0
    saved_before: int = 0

    @property
    def accepted(self) -> bool:
        return self.record is not None

    @property
    def cut(self) -> float:
        """The share of tokens saved; 0 without a summary."""
        saved = self.tokens_before - self.tokens_after
        return saved / self.tokens_before if self.record and self.tokens_before else 0.0

    @property
    def saved(self) -> int:
        """The tokens that it saves beyond what older summaries did; 0 without a summary."""
        return self.tokens_before - self.tokens_after - self.saved_before if self.record else 0


def text_tokens(text: str) -> int:
    """Tokens of the text alone, without the two that frame what the embedder reads."""
    return max(0, tokens.count(text) - 2)


def due(records: Sequence[Record], policy: Policy, count: Count = text_tokens) -> list[Record]:
    """The records that a summary would replace, oldest first; none while the conversation fits its
    budget, or has little that is new. InvalidInput for records of several tenants or sessions."""
    chosen = replaceable(records, policy.recent)
    fresh = [r for r in chosen if r.kind != KIND]
    over = sum(count(r.text) for r in current(records)) > policy.budget_tokens
    new = _NEW_SHARE * policy.budget_tokens
    return chosen if over and len(fresh) > 1 and sum(count(r.text) for r in fresh) >= new else []


async def summarise(
    records: Sequence[Record],
    complete: Complete | None = None,
    *,
    name: str = EXTRACTIVE,
    policy: Policy = POLICY,
    count: Count = text_tokens,
) -> Outcome:
    """The summary of a conversation's records, those of its older summaries among them, or why
    there is none. `name` is the model's. Nothing is written, and no error of the model is raised:
    it is a reason. Raises InvalidInput for records of several tenants or sessions."""
    chosen = await asyncio.to_thread(due, records, policy, count)
    if not chosen:
        return Outcome(None, (_NOT_WORTH,), name)
    held = await asyncio.to_thread(talk, chosen)
    outcome: Outcome | None = None
    if complete is not None:
        outcome, reached = await _modelled(held, complete, name, policy, count)
        if outcome.accepted or (reached and not policy.fall_back):
            return outcome
    quotes = await asyncio.to_thread(_Draft(held, policy, count, EXTRACTIVE).of_quotes)
    return replace(quotes, reasons=(*quotes.reasons, *(outcome.reasons if outcome else ())))


async def _modelled(
    held: Talk, complete: Complete, name: str, policy: Policy, count: Count
) -> tuple[Outcome, bool]:
    """What comes of the model's answers, and whether the model was there at all."""
    draft = _Draft(held, policy, count, name)
    parts = windows(held.fresh, policy.window_tokens, policy.window_lines, count)
    if len(parts) > policy.calls:
        reason = f"it needs {len(parts)} calls of the model, not {policy.calls}"
        return draft.rejected(reason), True
    answers: list[str] = []
    for part in parts:
        draft.calls += 1
        try:
            answers.append(await ask(complete, part, policy.deadline_s))
        except Unusable as failed:
            return draft.rejected(failed.reason), failed.reached
    return await asyncio.to_thread(draft.of_answers, answers), True


class _Draft:
    """A summary in the making, of one conversation by one method."""

    def __init__(self, held: Talk, policy: Policy, count: Count, method: str) -> None:
        self._talk, self._policy, self._count, self._method = held, policy, count, method
        self._probe = Probe(held.said)
        self._dropped: tuple[str, ...] = ()
        self._repaired = 0
        self.calls = 0

    def of_quotes(self) -> Outcome:
        """The summary in the speakers' own words."""
        return self._judged(extract(self._talk.said, self._probe))

    def of_answers(self, answers: Sequence[str]) -> Outcome:
        """The model's summary, behind what older summaries say."""
        said = [s for answer in answers for s in read(answer, self._talk.names)]
        verdicts = [self._probe.judge(statement) for statement in said]
        faults = dict.fromkeys(v.fault for v in verdicts if v.fault)
        if faults:
            return self.rejected(*faults)
        pairs = list(zip(said, verdicts, strict=True))
        self._dropped = tuple(s.text for s, v in pairs if not v.lines)
        if len(self._dropped) == len(said):
            return self.rejected("nothing of it is about this conversation")
        cited = [Cited(s.text, s.who, v.lines) for s, v in pairs if v.lines]
        return self._judged([*quoted(self._talk.carried), *dict.fromkeys(cited)])

    def _judged(self, cited: list[Cited]) -> Outcome:
        """The outcome for these sentences, repaired once where facts are missing. What is probed is
        the text that would be stored, read anew."""
        text = rendered(cited, self._talk.numbers)
        lost = self._probe.lost(read(text, self._talk.names))
        if lost:
            added = repairs(lost)
            if len(added) > self._policy.quotes:
                return self.rejected(*map(str, lost))
            self._repaired = len(added)
            text = rendered([*cited, *added], self._talk.numbers)
            lost = self._probe.lost(read(text, self._talk.names))
        return self.rejected(*map(str, lost)) if lost else self._short_enough(text)

    def _short_enough(self, text: str) -> Outcome:
        if not text:
            return self.rejected("the conversation says nothing that can be kept")
        before, after = self._before(), self._count(text)
        most = (1 - self._policy.least_cut) * before
        if after > most or len(text.encode()) > MAX_TEXT_BYTES:
            return self.rejected(f"{after} tokens of {before}; at most {most:.0f} is short enough")
        record = self._record(text, before, after)
        return self._outcome(record, (), before, after)

    def _before(self) -> int:
        return sum(_tokens_before(record, self._count) for record in self._talk.records)

    def _saved_before(self) -> int:
        older = [r for r in self._talk.records if r.kind == KIND]
        return sum(_tokens_before(r, self._count) - self._count(r.text) for r in older)

    def _record(self, text: str, before: int, after: int) -> Record:
        records = self._talk.records
        first = records[0]
        ends = [r.expires_at for r in records if r.expires_at is not None]
        return Record(
            first.tenant, KIND, f"{KIND}:{first.session}", text,
            event_at=max(r.event_at for r in records),
            meta={"method": self._method, "tokens": str(after), "tokens_before": str(before)},
            tier="session",
            subject=_common([r.subject for r in records]),
            agent=_common([r.agent for r in records]),
            session=first.session,
            # it holds what they hold, so it goes when the first of them goes
            expires_at=min(ends, default=None),
            importance=max(r.importance for r in records),
            parents=tuple(r.id for r in records),
            origin=Origin("run" if self._method == EXTRACTIVE else "model", self._method),
        )  # fmt: skip

    def rejected(self, *reasons: str) -> Outcome:
        return self._outcome(None, reasons[:_MOST_REASONS], self._before(), 0)

    def _outcome(
        self, record: Record | None, reasons: tuple[str, ...], before: int, after: int
    ) -> Outcome:
        return Outcome(
            record, reasons, self._method, before, after, self._probe.count, self._repaired,
            self._dropped, self.calls, self._saved_before(),
        )  # fmt: skip


def _tokens_before(record: Record, count: Count) -> int:
    """The tokens of the originals: of a summary, those of what it stands for."""
    told = record.meta.get("tokens_before", "") if record.kind == KIND else ""
    return int(told) if told.isdecimal() and len(told) < 10 else count(record.text)


def _common(names: Sequence[str]) -> str:
    return names[0] if len(set(names)) == 1 else ""
