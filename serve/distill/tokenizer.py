"""The tokenizer of the reference checkpoints: byte-level BPE of 2,048 tokens, shaped like Qwen's.

References such as [ORDER_1] and evidence ids such as E1 are one token each, so that copying one
is copying a token. The chat template writes ChatML; tool calls are in hermes form.
"""

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from serve.distill.corpus import TASKS, Example, examples

VOCABULARY: Final = 2048
END_OF_TEXT: Final = "<|endoftext|>"
TURN_START: Final = "<|im_start|>"
TURN_END: Final = "<|im_end|>"
SPECIAL: Final = (END_OF_TEXT, TURN_START, TURN_END)
MARKUP: Final = (
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
_REFERENCES: Final = {
    "NAME": 3,
    "EMAIL": 2,
    "PHONE": 2,
    "CARD": 1,
    "IBAN": 1,
    "ADDRESS": 2,
    "ORDER": 6,
    "TRACKING": 4,
    "AMOUNT": 9,
    "DATE": 9,
    "NUMBER": 9,
}
_MAX_EVIDENCE: Final = 8
_SPLIT: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE: Final = """\
{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
{{- '# Tools\\nCall one with <tool_call>{"name": NAME, "arguments": OBJECT}</tool_call>.' }}
{{- '\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}
{{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- elif message.role == 'assistant' %}
{{- '<|im_start|>assistant\\n' + (message.content or '') }}
{%- for call in message.tool_calls or [] %}
{%- set function = call.function or call %}
{{- '<tool_call>\\n{"name": "' + function.name + '", "arguments": ' }}
{{- function.arguments if function.arguments is string else function.arguments | tojson }}
{{- '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- elif message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content }}
{{- '\\n</tool_response><|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""


def build_tokenizer(seed: int, count: int = 6_000) -> PreTrainedTokenizerFast:
    """Train the tokenizer on `count` examples of each task."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokens = [*MARKUP, *reference_tokens()]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(tokens) - len(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(seed, count), trainer)
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in tokens])
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def reference_tokens() -> list[str]:
    """The references and evidence ids that are one token."""
    forms = [f"[{kind}_{i}]" for kind, count in _REFERENCES.items() for i in range(1, count + 1)]
    return [*forms, *(f"E{i}" for i in range(1, _MAX_EVIDENCE + 1))]


def encode(tokenizer: Any, example: Example) -> tuple[list[int], list[int]]:
    """Token ids of the prompt and of the answer with its end."""
    answer: list[int] = tokenizer(example.answer + TURN_END, add_special_tokens=False)["input_ids"]
    return encode_prompt(tokenizer, example.messages, example.tools), answer


def encode_prompt(tokenizer: Any, messages: Any, tools: Any) -> list[int]:
    """Token ids of a chat that is to be answered; messages and tools as OpenAI's."""
    text = tokenizer.apply_chat_template(
        messages, tools=tools, add_generation_prompt=True, tokenize=False
    )
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _texts(seed: int, count: int) -> Iterator[str]:
    pieces = re.compile("|".join(re.escape(t) for t in reference_tokens()))
    for task in TASKS:
        for example in islice(examples(task, "train", seed), count):
            text = "\n".join([*(m["content"] for m in example.messages), example.answer])
            # What is a token of its own must not be learned again as pieces.
            yield from pieces.split(text)
