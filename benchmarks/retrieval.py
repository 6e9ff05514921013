"""Whether recall finds the turns that answer a question: `make bench-retrieval ARGS="--data FILE"`.

FILE has LoCoMo's form (.json or .json.gz). Every turn is one record; every conversation is one
tenant of the same memory; the questions of categories 1 to 4 are asked with `Memory.recall` as a
caller would, over the log, MiniLM and Milvus Lite, with no language model anywhere. A hit is an
evidence turn among the first k. Beside it, in the same run and on the same texts and vectors:
FAISS, and Milvus Lite's dense search, BM25 and default hybrid. Intervals are 95 %, by drawing
questions with replacement 2,000 times.

Then questions are asked of another conversation, its speakers' names put in: what should come is
nothing.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.locomo_data import Conversation, Question, load
from benchmarks.report import Figure, write
from benchmarks.retrieval_peers import Milvus, faiss_flat
from cluster.errors import InvalidInput
from cluster.ids import SystemClock
from cluster.settings import MemorySection
from memory.embed import MiniLM
from memory.records import Query, Record
from memory.service import Memory

TARGETS: Final = {"any-hit@5": 0.71, "any-hit@10": 0.80, "recall@10": 0.73}
_K: Final = 10
_DRAWS: Final = 2_000
_GATES: Final = (0.3, 0.4)
_STRANGERS: Final = 100  # questions of each conversation that are asked of another one

Found = list[list[str]]
"""For each question the ids of the turns that came, best first."""


@dataclass(frozen=True)
class Outcome:
    """What one retriever found, as a row of measures for each question."""

    rows: NDArray[np.float64]

    def figures(self, name: str, targets: dict[str, float]) -> list[Figure]:
        low, high = self._intervals()
        return [
            Figure(
                f"{name}: {measure}", float(self.rows[:, n].mean()), targets.get(measure),
                "at least", len(self.rows), (low[n], high[n]),
            )
            for n, measure in enumerate(TARGETS)
        ]  # fmt: skip

    def _intervals(self) -> tuple[list[float], list[float]]:
        rng = np.random.default_rng(0)
        count = len(self.rows)
        means = [self.rows[rng.integers(count, size=count)].mean(axis=0) for _ in range(_DRAWS)]
        low, high = np.percentile(means, [2.5, 97.5], axis=0)
        return low.tolist(), high.tolist()

    def means(self) -> dict[str, float]:
        return dict(zip(TARGETS, self.rows.mean(axis=0).round(4).tolist(), strict=True))


def outcome(found: Found, questions: Sequence[Question]) -> Outcome:
    """Any evidence turn among the first 5 and 10, and the share of them among the first 10."""
    rows = []
    for ids, question in zip(found, questions, strict=True):
        five, ten = (len(question.evidence & set(ids[:k])) for k in (5, 10))
        rows.append((float(five > 0), float(ten > 0), ten / len(question.evidence)))
    return Outcome(np.array(rows, np.float64).reshape(-1, len(TARGETS)))


def main() -> int:
    """Run, print the table, write the JSON; status 1 when STRICT=1 and a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.retrieval")
    parser.add_argument("--data", type=Path, required=True, help="a file of LoCoMo's form")
    given = parser.parse_args()
    try:
        conversations = load(given.data)
    except InvalidInput as error:
        print(f"skipped: {error}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="retrieval-") as folder:
        figures, details, peers = asyncio.run(_measured(conversations, Path(folder)))
    questions = sum(len(c.questions) for c in conversations)
    load_ = f"{given.data.name}: {len(conversations)} conversations, {questions} questions"
    return write("retrieval", figures, load=load_, peers=peers, details=details)


async def _measured(
    conversations: list[Conversation], folder: Path
) -> tuple[list[Figure], dict[str, Any], dict[str, Any]]:
    model = MiniLM(cached=20_000)
    memory = Memory(MemorySection(), folder / "ours", model, SystemClock())
    try:
        for number, conversation in enumerate(conversations):
            await memory.remember(records(_tenant(number), conversation))
        mine, waited = await _recalled(memory, conversations)
        gates = _GATES if len(conversations) > 1 else ()
        strangers = [await _strangers(memory, conversations, gate) for gate in gates]
    finally:
        await memory.close()
    ours = [outcome(f, c.questions) for f, c in zip(mine, conversations, strict=True)]
    figures = _together(ours).figures("recall", TARGETS)
    peers: dict[str, Any] = {}
    for name, parts in _peers(model, conversations, folder).items():
        figures += _together(parts).figures(name, {})
        peers[name] = {c.name: p.means() for c, p in zip(conversations, parts, strict=True)}
    for gate, (right, wrong) in zip(gates, strangers, strict=True):
        figures.append(Figure(f"answered, min_relevance {gate}: own conversation", right))
        figures.append(Figure(f"answered, min_relevance {gate}: another one", wrong))
    figures.append(Figure("recall with embedding, p50 ms", float(np.median(waited))))
    figures.append(Figure("recall with embedding, p95 ms", float(np.percentile(waited, 95))))
    details = {
        "by conversation": {c.name: o.means() for c, o in zip(conversations, ours, strict=True)},
        "by category": _by_category(ours, conversations),
    }
    return figures, details, peers


def _tenant(number: int) -> str:
    return f"conversation-{number}"


def records(tenant: str, conversation: Conversation) -> list[Record]:
    """The turns as records, each session a document; the speaker is part of what was said."""
    return [
        Record(
            tenant, "turn", f"chat:{turn.session}#{turn.number}", f"{turn.speaker}: {turn.text}",
            turn.at, {"id": turn.id},
        )
        for turn in conversation.turns
    ]  # fmt: skip


async def _recalled(
    memory: Memory, conversations: list[Conversation]
) -> tuple[list[Found], list[float]]:
    found: list[Found] = []
    waited: list[float] = []
    for number, conversation in enumerate(conversations):
        found.append([])
        for question in conversation.questions:
            began = time.perf_counter()
            hits = await memory.recall(Query(_tenant(number), question.text, _K))
            waited.append(1000 * (time.perf_counter() - began))
            found[-1].append([hit.record.meta["id"] for hit in hits])
    return found, waited


async def _strangers(
    memory: Memory, conversations: list[Conversation], gate: float
) -> tuple[float, float]:
    """The shares of questions to which anything comes, asked where they belong and elsewhere."""
    came: list[tuple[bool, bool]] = []
    for number, conversation in enumerate(conversations):
        other = (number + 1) % len(conversations)
        names = list(zip(conversation.speakers, conversations[other].speakers, strict=False))
        for question in conversation.questions[:_STRANGERS]:
            elsewhere = question.text
            for own, foreign in names:
                elsewhere = elsewhere.replace(own, foreign)
            asked = ((_tenant(number), question.text), (_tenant(other), elsewhere))
            right, wrong = [
                await memory.recall(Query(tenant, text, _K, min_relevance=gate))
                for tenant, text in asked
            ]
            came.append((bool(right), bool(wrong)))
    right, wrong = np.array(came, np.float64).mean(axis=0).tolist()
    return right, wrong


def _peers(
    model: MiniLM, conversations: list[Conversation], folder: Path
) -> dict[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = {}
    milvus = Milvus(folder / "peer.db")
    for number, conversation in enumerate(conversations):
        texts = [record.text for record in records(_tenant(number), conversation)]
        asked = [question.text for question in conversation.questions]
        vectors, questions = model.encode(texts), model.encode(asked)
        milvus.fill(texts, vectors)
        pairs = list(zip(asked, questions, strict=True))
        came = {
            "FAISS flat": faiss_flat(vectors, questions, _K),
            "Milvus dense": [milvus.dense(v, _K) for _, v in pairs],
            "Milvus BM25": [milvus.bm25(q, _K) for q, _ in pairs],
            "Milvus default hybrid": [milvus.hybrid(q, v, _K) for q, v in pairs],
        }
        for name, positions in came.items():
            ids = [[conversation.turns[p].id for p in one] for one in positions]
            found.setdefault(name, []).append(outcome(ids, conversation.questions))
    milvus.close()
    return found


def _together(parts: Sequence[Outcome]) -> Outcome:
    return Outcome(np.concatenate([part.rows for part in parts]))


def _by_category(ours: Sequence[Outcome], conversations: list[Conversation]) -> dict[str, Any]:
    rows = _together(ours).rows
    categories = np.array([q.category for c in conversations for q in c.questions])
    return {
        str(n): {
            "questions": int((categories == n).sum()),
            **Outcome(rows[categories == n]).means(),
        }
        for n in sorted(set(categories.tolist()))
    }


if __name__ == "__main__":
    sys.exit(main())
