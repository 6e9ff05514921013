"""Labelled examples for the shop's intent head, made from the ticket grammar.

They teach words that the written examples miss. They are no measure: a head is judged by written
examples only (serve/intent_training.py).
"""

from random import Random

from agents.pii import Vault
from agents.references import References
from serve.distill.grammar import expand, lexicon
from serve.distill.tickets import INTENTS, Values
from serve.intents import OUT_OF_SCOPE


def made_examples(each: int, seed: int) -> list[tuple[str, str]]:
    """At most `each` different (text, intent) of every intent, as the intent head sees texts."""
    rng = Random(seed)
    words = lexicon("tickets")
    made: dict[tuple[str, str], None] = {}
    for intent in (*INTENTS, OUT_OF_SCOPE):
        templates = words["requests"].get(intent) or words[intent]
        for number in range(each):
            text = expand(rng, templates[number % len(templates)], Values(rng, "train"))
            made[(References().rewrite(Vault().redact(text)), intent)] = None
    return list(made)
