"""Measures a reference checkpoint on validation chats, written out by greedy decoding.

    python -m serve.distill.check --model routine --checkpoint DIR --count 200

Prints counts and keeps them in DIR/scores.json. `right` is an answer that equals the expected one
to the letter; `grounded` is a draft in which the workflow's grounding check finds nothing.
Free decoding: in the workflow the planner is also held to its JSON schema.
"""

import argparse
import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any, Final

import torch

from agents.grounding import check as ungrounded
from agents.references import References
from agents.workflows.prompts import NO_ANSWER, Evidence
from serve.distill.corpus import TASKS, Example, examples
from serve.distill.shapes import load
from serve.distill.tokenizer import encode
from serve.distill.train import VALIDATION_SEED

_BATCH: Final = 16
_MAX_NEW: Final = 200
_SHOWN: Final = 5


def judge(example: Example, answer: str) -> list[str]:
    """What `answer` is counted as: names of counters, the kind of example before each."""
    kind = example.kind
    found = [f"{kind} asked"]
    if answer == example.answer:
        found.append(f"{kind} right")
    if kind == "plan":
        found += _judge_plan(example, answer)
    if kind == "draft":
        found += _judge_draft(example, answer)
    return found


def _judge_plan(example: Example, answer: str) -> list[str]:
    try:
        steps = json.loads(answer)["steps"]
    except (ValueError, KeyError, TypeError):
        return ["plan broken"]
    expected = json.loads(example.answer)["steps"]
    refunds, wanted = ([s for s in x if s.get("tool") == "refund"] for x in (steps, expected))
    found = ["plan valid JSON"]
    if any(refund not in wanted for refund in refunds):
        found.append("plan with a refund that it should not have")
    return found


def _judge_draft(example: Example, answer: str) -> list[str]:
    if example.answer == NO_ANSWER:
        found = ["draft without an answer in the evidence"]
        return found + (["draft without an answer, refused"] if answer == NO_ANSWER else [])
    if answer == NO_ANSWER:
        return ["draft refused though answerable"]
    clean = not ungrounded(answer, evidence_of(example), References(), "Lumen & Oak")
    return ["draft written", *(["draft grounded"] if clean else [])]


def evidence_of(example: Example) -> list[Evidence]:
    """The evidence lines that stand in a draft's prompt."""
    block = example.messages[-1]["content"].split("<evidence>\n")[1].split("\n</evidence>")[0]
    pairs = (line.split(" ", 1) for line in block.splitlines())
    return [Evidence(id, "", text) for id, text in pairs]


def answers(model: Any, tokenizer: Any, asked: list[Example]) -> list[str]:
    """The model's greedy answers, padded on the left and decoded together."""
    prompts = [encode(tokenizer, e)[0] for e in asked]
    longest = max(map(len, prompts))
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    with torch.no_grad():
        written = model.generate(ids, attention_mask=mask, max_new_tokens=_MAX_NEW)
    return [tokenizer.decode(row[longest:], skip_special_tokens=True) for row in written]


def scores(task: str, checkpoint: Path, count: int) -> dict[str, int]:
    """Counts over `count` validation chats."""
    model, tokenizer = load(checkpoint)
    asked = list(islice(examples(task, "validation", VALIDATION_SEED + 1), count))
    # Alike lengths together, so that little is padded.
    asked.sort(key=lambda e: len(e.messages[-1]["content"]))
    counts: Counter[str] = Counter()
    shown = 0
    for start in range(0, len(asked), _BATCH):
        batch = asked[start : start + _BATCH]
        for example, answer in zip(batch, answers(model, tokenizer, batch), strict=True):
            counts.update(judge(example, answer))
            if answer != example.answer and shown < _SHOWN:
                shown += 1
                last = example.messages[-1]["content"]
                print(f"--- {last}\nexpected {example.answer}\nwritten  {answer}", flush=True)
    return dict(sorted(counts.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a reference checkpoint.")
    parser.add_argument("--model", choices=TASKS, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200)
    args = parser.parse_args()
    found = scores(args.model, args.checkpoint, args.count)
    text = json.dumps(found, indent=2)
    (args.checkpoint / "scores.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
