"""How much of what is personal is found, and what is taken for it: `make bench-pii`.

On held-out sentences of ours in seven languages (`benchmarks/pii_data/held_out.txt`), filled with
drawn values. A label is found when the same kind stands in its place, with at least three quarters
of both in common; what is found elsewhere is false. The hot path is timed on the shipped desk's
tickets, each with its customer's account. `--set tuning --show` prints what is missed or false
there; nothing is mended by the held-out set. Where the extra `presidio` is installed, the same
sentences are read by Presidio alone (blank models), and by ours with Presidio behind; neither has a
target.
"""

import argparse
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np

from agents.pii import Detector, Vault
from agents.presidio import detectors
from agents.references import REFERENCE
from benchmarks.pii_sentences import FROM_ACCOUNT, STRUCTURED, Label, Sentence, sentences
from benchmarks.report import Figure, write
from cluster.errors import ConfigError
from cluster.settings import PiiSection, infra_path

RECALL, PRECISION, F2, HOT_MS = 0.95, 0.98, 0.90, 1.0
_OVERLAP: Final = 0.75
_ROUNDS: Final = 20


def found(sentence: Sentence, more: Sequence[Detector] = ()) -> list[Label]:
    """What the vault replaces, by where it stood."""
    vault = Vault(more=more)
    redacted = vault.redact(sentence.text, sentence.account)
    pattern, end, kinds = "", 0, []
    for match in REFERENCE.finditer(redacted):
        value = re.escape(vault.render(match.group()))
        pattern += re.escape(redacted[end : match.start()]) + f"({value}|.+?)"
        kinds.append(match.group(1))
        end = match.end()
    whole = re.fullmatch(pattern + re.escape(redacted[end:]), sentence.text, re.I | re.S)
    if whole is None:
        raise RuntimeError(f"{redacted!r} is not {sentence.text!r} with values replaced")
    return [(kind, *whole.span(i)) for i, kind in enumerate(kinds, 1)]


def same(label: Label, other: Label) -> bool:
    """Whether both say the same of the same place."""
    common = min(label[2], other[2]) - max(label[1], other[1])
    union = max(label[2], other[2]) - min(label[1], other[1])
    return label[0] == other[0] and common >= _OVERLAP * union


Find = Callable[[Sentence], Sequence[Label]]


class Counts:
    """Hits, misses and false finds by kind."""

    def __init__(self, all_of: Iterable[Sentence], show: bool, find: Find = found) -> None:
        self.hit, self.missed, self.false = Counter[str](), Counter[str](), Counter[str]()
        for sentence in all_of:
            self._add(sentence, find(sentence), show)

    def _add(self, sentence: Sentence, seen: Sequence[Label], show: bool) -> None:
        for label in sentence.labels:
            hit = any(same(label, s) for s in seen)
            (self.hit if hit else self.missed)[label[0]] += 1
            if show and not hit:
                print("missed", label[0], repr(sentence.text[label[1] : label[2]]), sentence.text)
        for s in seen:
            if not any(same(s, label) for label in sentence.labels):
                self.false[s[0]] += 1
                if show:
                    print("false ", s[0], repr(sentence.text[s[1] : s[2]]), sentence.text)

    def rates(self, kinds: Iterable[str]) -> tuple[float, float, int]:
        """Precision, recall and the number of labels."""
        hit, missed, false = (sum(c[k] for k in kinds) for c in (self.hit, self.missed, self.false))
        return hit / max(1, hit + false), hit / max(1, hit + missed), hit + missed


def f2(precision: float, recall: float) -> float:
    """The F measure in which recall counts twice."""
    return 5 * precision * recall / max(1e-9, 4 * precision + recall)


def hot_path_ms() -> list[float]:
    """Milliseconds to redact each of the shipped desk's tickets, the first time it is seen, and
    _ROUNDS times."""
    desk = infra_path("", "support")
    told = json.loads((desk / "desk.json").read_text("utf-8"))
    accounts = {c["id"]: c for c in told["customers"]}
    lines = (desk / "tickets.jsonl").read_text("utf-8").splitlines()
    tickets = [json.loads(line) for line in lines]
    took = []
    for _ in range(_ROUNDS):
        for ticket in tickets:
            account = {k: str(accounts[ticket["customer"]].get(k, "")) for k in _FIELDS}
            began = time.perf_counter()
            Vault().redact(ticket["body"], account)
            took.append(1e3 * (time.perf_counter() - began))
    return took


def beside(chosen: Sequence[Sentence]) -> list[Figure]:
    """The same by Presidio alone, and by ours with Presidio behind; none where it is missing."""
    section = PiiSection(engine="presidio", languages=_LANGUAGES)
    try:
        (detect,) = detectors(section)
    except ConfigError as missing:
        print(f"Presidio is not beside ours: {missing}")
        return []
    ways: dict[str, Find] = {
        "Presidio alone": lambda s: _apart(detect(s.text)),
        "ours, then Presidio": lambda s: found(s, [detect]),
    }
    figures = []
    for name, find in ways.items():
        began = time.perf_counter()
        precision, recall, _ = Counts(chosen, False, find).rates(STRUCTURED)
        each_ms = 1e3 * (time.perf_counter() - began) / len(chosen)
        figures += [
            Figure(f"{name}: recall", recall), Figure(f"{name}: precision", precision),
            Figure(f"{name}: a sentence, mean ms", each_ms),
        ]  # fmt: skip
    return figures


def _apart(found: Iterable[Label]) -> list[Label]:
    """Of those that overlap the first, as a vault takes them."""
    kept: list[Label] = []
    for label in found:
        if not kept or label[1] >= kept[-1][2]:
            kept.append(label)
    return kept


_LANGUAGES: Final = ("en", "de", "fr", "es", "it", "nl", "pl")
_FIELDS: Final = ("name", "email", "phone", "address")


def main() -> int:
    """Measure, and write the result; the exit status."""
    given = _arguments()
    chosen = list(sentences(given.set, given.draws, given.seed))
    began = time.perf_counter()
    counts = Counts(chosen, given.show)
    each_ms = 1e3 * (time.perf_counter() - began) / len(chosen)
    precision, recall, labels = counts.rates(STRUCTURED)
    of_account = Counts((s for s in chosen if s.account is not None), False)
    known_precision, known_recall, known = of_account.rates(FROM_ACCOUNT)
    known_f2 = f2(known_precision, known_recall)
    took = hot_path_ms()
    figures = [
        Figure("sentences", len(chosen), 500, "at least"),
        Figure("structured: recall", recall, RECALL, "at least"),
        Figure("structured: precision", precision, PRECISION, "at least"),
        Figure("structured: labels", labels),
        Figure("names, addresses of accounts: F2", known_f2, F2, "at least"),
        Figure("names, addresses of accounts: labels", known),
        Figure("a ticket, mean ms", float(np.mean(took)), HOT_MS),
        Figure("a ticket, p99 ms", float(np.quantile(took, 0.99))),
        Figure("a sentence, mean ms", each_ms),
        *(
            Figure(f"{kind}: recall", counts.rates([kind])[1])
            for kind in (*STRUCTURED, *FROM_ACCOUNT)
        ),
        *beside(chosen),
    ]
    details = {
        name: dict(c)
        for name, c in (("hit", counts.hit), ("missed", counts.missed), ("false", counts.false))
    }
    load = f"{given.draws} draws of each template of the set {given.set}, seed {given.seed}"
    name = "pii" if given.set == "held_out" else f"pii-{given.set}"
    return write(name, figures, load=load, details=details)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.pii")
    parser.add_argument("--set", choices=("held_out", "tuning"), default="held_out")
    parser.add_argument("--draws", type=int, default=8, help="sentences of each template")
    parser.add_argument("--seed", type=int, default=7, help="which values are drawn")
    parser.add_argument("--show", action="store_true", help="print what is missed or false")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
