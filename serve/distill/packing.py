"""Chats end to end in one row, without padding, each seeing only itself."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any, Final

import torch
from torch.nn import functional
from transformers import AttentionInterface

IGNORED: Final = -100
CHATWISE: Final = "chatwise"
_ROUNDED: Final = 128  # lengths that share a mask

Encoded = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Batch:
    """One row of chats; tensors have shape (1, tokens). `targets` holds what follows each position
    where it belongs to an answer, else IGNORED; `positions` count from 0 in each chat; chat i is
    `bounds[i]:bounds[i + 1]`. `drawn` counts the chats that were taken from the stream for this
    batch and those before it."""

    tokens: torch.Tensor
    targets: torch.Tensor
    positions: torch.Tensor
    bounds: tuple[int, ...]
    drawn: int

    def to(self, device: str) -> "Batch":
        """The same batch on another device."""
        tokens, targets = self.tokens.to(device), self.targets.to(device)
        return replace(self, tokens=tokens, targets=targets, positions=self.positions.to(device))


def batches(encoded: Iterable[Encoded], tokens: int, longest: int) -> Iterator[Batch]:
    """Batches of at most `tokens` tokens. A chat longer than `longest` is left out."""
    row: list[Encoded] = []
    size = 0
    drawn = 0
    for drawn, (prompt, answer) in enumerate(encoded):
        length = len(prompt) + len(answer)
        if length > min(longest, tokens):
            continue
        if size + length > tokens:
            yield _batch(row, drawn)
            row, size = [], 0
        row.append((prompt, answer))
        size += length
    if row:
        yield _batch(row, drawn + 1)


def _batch(row: list[Encoded], drawn: int) -> Batch:
    tokens: list[int] = []
    targets: list[int] = []
    positions: list[int] = []
    bounds = [0]
    for prompt, answer in row:
        tokens += prompt + answer
        # A position predicts its follower: the last one of a prompt, the first of the answer.
        targets += [IGNORED] * (len(prompt) - 1) + answer + [IGNORED]
        positions += range(len(prompt) + len(answer))
        bounds.append(len(tokens))
    columns = [torch.tensor([c]) for c in (tokens, targets, positions)]
    return Batch(columns[0], columns[1], columns[2], tuple(bounds), drawn)


def attend_chatwise(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    bounds: tuple[int, ...],
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each chat of a packed row, registered with transformers as
    `chatwise`; `query` has shape (1, heads, tokens, size), and so has what is returned with heads
    and tokens swapped.

    On the CPU it is computed chat by chat: PyTorch's kernel for a row of 512 with a mask took half
    of a training step, this takes a tenth. A GPU gets one call with a block mask.
    """
    if query.is_cuda:
        mask = _block_mask(bounds, query.device)
        seen = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scaling, enable_gqa=True
        )
        return seen.transpose(1, 2), None
    kv_heads, size = key.shape[1], query.shape[-1]
    queries = (query[0] * scaling).unflatten(0, (kv_heads, -1))
    longest = max(end - start for start, end in pairwise(bounds))
    later = _later(-(-longest // _ROUNDED) * _ROUNDED, query.dtype)
    chats: list[torch.Tensor] = []
    for start, end in pairwise(bounds):
        length = end - start
        asked = queries[:, :, start:end].reshape(kv_heads, -1, size)
        scores = asked @ key[0, :, start:end].transpose(-1, -2)
        scores = scores.view(kv_heads, -1, length, length) + later[:length, :length]
        weights = scores.softmax(-1).view(kv_heads, -1, length)
        seen = weights.to(value.dtype) @ value[0, :, start:end]
        chats.append(seen.view(kv_heads * queries.shape[1], length, size))
    return torch.cat(chats, dim=1).transpose(0, 1)[None], None


def _block_mask(bounds: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Who may see whom: earlier positions of the same chat. Shape (tokens, tokens)."""
    lengths = torch.tensor([end - start for start, end in pairwise(bounds)], device=device)
    chats = torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths)
    return (chats[:, None] == chats).tril()


@cache
def _later(length: int, dtype: torch.dtype) -> torch.Tensor:
    """Minus infinity where a position would look ahead."""
    return torch.full((length, length), float("-inf"), dtype=dtype).triu(1)


AttentionInterface.register(CHATWISE, attend_chatwise)
