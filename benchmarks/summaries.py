"""Whether a conversation's summary keeps what it must: `make bench-summaries`.

100 generated conversations (tests/conversations.py), in which every id, amount, date, promise and
rule is known, are summed up (i) in the speakers' own words and (ii) by the shipped routine model
through transformers (`--no-model` leaves it out), asked with the prompt it is trained on. What is
kept is counted on the planted texts, word by word, and not by the probe that let the summary pass.
Tokens are MiniLM's; whole conversations are summed up (no recent messages are left out).

Then each summary is damaged in one place and handed in as a model's: each must be rejected. With
`--data FILE` of LoCoMo's form, the sessions of people's talk in it are summed up too: what is cut
there has no target, as nobody planted what must stay.
"""

import argparse
import asyncio
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, Final

from scipy import stats  # type: ignore[import-untyped]

from agents.chat import Completion
from agents.summariser import MAX_ANSWER_TOKENS, Summariser
from agents.workflows.prompts import Message
from benchmarks.locomo_data import load
from benchmarks.report import Figure, write
from memory.asking import Complete, windows
from memory.conversations import talk
from memory.records import Record
from memory.statements import Line
from memory.summaries import Outcome, Policy, due, summarise, text_tokens
from tests.conversations import DAMAGES, Conversation, conversation, message

_COUNT: Final = 100
_FIRST: Final = 1_000  # seeds from here on; the tests use others
_POLICY: Final = Policy(budget_tokens=400, recent=0)
_WHOLE: Final = replace(_POLICY, quotes=0, window_tokens=10**6, window_lines=10**6, least_cut=0.0)
_BATCH: Final = 25
_ANCHOR: Final = re.compile(r" \((?:said )?\d{4}-\d\d-\d\d\)")
_CITATION: Final = re.compile(r"^\[[\d,]+\] ", re.MULTILINE)
_ROUTINE: Final = Path("serve/checkpoints/routine")


def main() -> int:
    """Run, print the table, write the JSON; status 1 when STRICT=1 and a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.summaries")
    parser.add_argument("--no-model", action="store_true", help="leave the routine model out")
    parser.add_argument("--data", type=Path, help="a file of LoCoMo's form")
    given = parser.parse_args()
    made = [conversation(_FIRST + n) for n in range(_COUNT)]
    figures, details = _measured("quotes", made, [_summed_up(c.records) for c in made])
    figures += _damage(made, details)
    if not given.no_model:
        model = _Routine(_ROUTINE)
        model.prepare([c.records for c in made])
        for name, fall_back in (("routine", False), ("routine, else quotes", True)):
            policy = replace(_POLICY, fall_back=fall_back)
            outcomes = [_summed_up(c.records, Summariser(model, "routine"), policy) for c in made]
            more, details[name] = _measured(name, made, outcomes)
            figures += more
        details["routine"]["seconds for a call"] = model.seconds_a_call
    if given.data:
        figures += _people(given.data)
    return write("summaries", figures, load="one conversation at a time", details=details)


def _summed_up(
    records: Sequence[Record], complete: Complete | None = None, policy: Policy = _POLICY
) -> Outcome:
    return asyncio.run(summarise(records, complete, name="routine", policy=policy))


def _share(name: str, hits: int, count: int, target: float | None = None) -> Figure:
    found = stats.binomtest(hits, count).proportion_ci(method="wilson")
    share = hits / count
    return Figure(name, share, target, "at least", count, (float(found.low), float(found.high)))


def _measured(
    name: str, made: Sequence[Conversation], outcomes: Sequence[Outcome]
) -> tuple[list[Figure], dict[str, Any]]:
    """What was accepted, what of the planted facts it keeps, and how much shorter it is."""
    planted = kept = 0
    lost: list[str] = []
    for one, outcome in zip(made, outcomes, strict=True):
        if outcome.record:
            flat = _ANCHOR.sub("", outcome.record.text)
            facts = [*one.values, *one.bonds]
            missing = [fact for fact in facts if fact not in flat]
            planted, kept = planted + len(facts), kept + len(facts) - len(missing)
            lost += missing
    accepted = [outcome for outcome in outcomes if outcome.accepted]
    cuts = [outcome.cut for outcome in accepted] or [0.0]
    figures = [
        _share(f"{name}: conversations accepted", len(accepted), len(outcomes)),
        _share(f"{name}: planted facts kept", kept, max(planted, 1), 1.0),
        Figure(f"{name}: tokens cut, mean", statistics.mean(cuts), 0.6, "at least"),
        Figure(f"{name}: tokens cut, least", min(cuts), 0.6, "at least"),
    ]
    rejected = [outcome for outcome in outcomes if not outcome.accepted]
    return figures, {
        "lost": lost,
        "tokens before": sum(outcome.tokens_before for outcome in accepted),
        "tokens after": sum(outcome.tokens_after for outcome in accepted),
        "methods": Counter(outcome.method for outcome in accepted),
        "sentences added by repair": sum(outcome.repaired for outcome in accepted),
        "why rejected": Counter(_why(outcome.reasons[0]) for outcome in rejected),
    }


def _why(reason: str) -> str:
    """The kind of a reason, without what stood in the text."""
    if reason.endswith("not in the originals"):
        return f"{reason.split()[0]} not in the originals"
    return re.sub(r"\d+", "N", reason.partition(": ")[0])


def _damage(made: Sequence[Conversation], details: dict[str, Any]) -> list[Figure]:
    """How many summaries with one flaw are rejected; those without are accepted."""
    figures: list[Figure] = []
    sound = [_summed_up(one.records) for one in made]
    pairs = [
        (c, _CITATION.sub("", o.record.text)) for c, o in zip(made, sound, strict=True) if o.record
    ]
    passed = [one for one, text in pairs if not _handed_in(one, text).accepted]
    figures.append(_share("handed in unharmed: accepted", len(pairs) - len(passed), len(pairs)))
    through: dict[str, list[str]] = {}
    for name, damage in DAMAGES.items():
        rng = Random(name)
        harmed = [(one, text, damage(rng, text)) for one, text in pairs]
        harmed = [(one, text, bad) for one, text, bad in harmed if bad != text]
        slipped = [bad for one, _, bad in harmed if _handed_in(one, bad).accepted]
        through[name] = slipped
        figures.append(
            _share(f"{name}: rejected", len(harmed) - len(slipped), len(harmed), 1.0)
        )  # fmt: skip
    details["damage that was let through"] = through
    return figures


def _handed_in(one: Conversation, text: str) -> Outcome:
    async def answer(lines: Sequence[Line]) -> str:
        return text

    return _summed_up(one.records, answer, _WHOLE)


class _Routine:
    """The routine model's checkpoint as a Chat. All prompts are answered beforehand, in batches:
    one by one takes several times as long and says the same."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(1)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._answers: dict[str, str] = {}
        self._wanted: dict[str, list[Message]] = {}
        self.seconds_a_call = 0.0

    def prepare(self, conversations: Sequence[Sequence[Record]]) -> None:
        """Answer all that will be asked about these."""
        asyncio.run(self._collect(conversations))
        prompts = sorted(self._wanted.values(), key=lambda p: len(str(p)))
        begun = time.process_time()
        for start in range(0, len(prompts), _BATCH):
            batch = prompts[start : start + _BATCH]
            for prompt, answer in zip(batch, self._generated(batch), strict=True):
                self._answers[str(prompt)] = answer
            print(f"routine model: {start + len(batch)} of {len(prompts)}", file=sys.stderr)
        self.seconds_a_call = (time.process_time() - begun) / len(prompts)

    async def _collect(self, conversations: Sequence[Sequence[Record]]) -> None:
        for records in conversations:
            for part in _parts(records):
                await Summariser(self, "routine")(part)

    def _generated(self, prompts: list[list[Message]]) -> list[str]:
        import torch

        ids = self._tokenizer.apply_chat_template(
            prompts, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True
        )
        with torch.inference_mode():
            out = self._model.generate(**ids, max_new_tokens=MAX_ANSWER_TOKENS, do_sample=False)
        answers = out[:, ids["input_ids"].shape[1] :]
        return list(self._tokenizer.batch_decode(answers, skip_special_tokens=True))

    async def complete(
        self, model: str, messages: Sequence[Message], **settings: Any
    ) -> Completion:
        """What was answered beforehand; while preparing, the question is noted."""
        key = str(list(messages))
        if key not in self._answers:
            self._wanted[key] = list(messages)
        return Completion(self._answers.get(key, ""), model, "", 0, 0, 0.0, 0.0)


def _parts(records: Sequence[Record]) -> list[list[Line]]:
    fresh = talk(due(records, _POLICY)).fresh
    return windows(fresh, _POLICY.window_tokens, _POLICY.window_lines, text_tokens)


def _people(path: Path) -> list[Figure]:
    """People's own talk: the sessions that are over the budget."""
    outcomes: list[Outcome] = []
    policy = replace(_POLICY, least_cut=0.0)
    for records in _sessions(path):
        outcome = _summed_up(records, None, policy)
        if outcome.tokens_before:
            outcomes.append(outcome)
    cuts = [outcome.cut for outcome in outcomes if outcome.accepted] or [0.0]
    enough = sum(cut >= _POLICY.least_cut for cut in cuts)
    return [
        _share("people's sessions: short enough to be accepted", enough, len(outcomes)),
        Figure("people's sessions: tokens cut, mean", statistics.mean(cuts), None, "at least"),
    ]


def _sessions(path: Path) -> Iterator[list[Record]]:
    for number, told in enumerate(load(path)):
        sessions: dict[str, list[Record]] = {}
        for turn in told.turns:
            name = f"{number}-{turn.session}"
            kept = sessions.setdefault(name, [])
            line = message(len(kept) + 1, turn.speaker.lower(), turn.text or "-", name)
            kept.append(replace(line, event_at=turn.at + len(kept)))
        yield from sessions.values()


if __name__ == "__main__":
    sys.exit(main())
