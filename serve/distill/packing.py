"""Chats into rows of one length, several a row, each seeing only itself."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch

IGNORED: Final = -100

Encoded = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Batch:
    """Rows of tokens. `targets` holds what follows each position where it belongs to an answer,
    else IGNORED; `positions` count from 0 in each chat; `chats` numbers the chats of a row from 1,
    0 is padding."""

    tokens: torch.Tensor
    targets: torch.Tensor
    positions: torch.Tensor
    chats: torch.Tensor

    def mask(self) -> torch.Tensor:
        """Who may see whom: earlier positions of the same chat. Shape (rows, 1, length, length)."""
        length = self.tokens.shape[1]
        same = self.chats[:, :, None] == self.chats[:, None, :]
        earlier = torch.ones(length, length, dtype=torch.bool, device=same.device).tril()
        return (same & earlier)[:, None]

    def to(self, device: str) -> "Batch":
        """The same batch on another device."""
        return Batch(
            *(t.to(device) for t in (self.tokens, self.targets, self.positions, self.chats))
        )


class _Row:
    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.targets: list[int] = []
        self.positions: list[int] = []
        self.chats: list[int] = []

    def add(self, prompt: list[int], answer: list[int]) -> None:
        chat = self.chats[-1] + 1 if self.chats else 1
        ids = prompt + answer
        self.tokens += ids
        # A position predicts its follower: the last one of a prompt, the first of the answer.
        self.targets += [IGNORED] * (len(prompt) - 1) + answer + [IGNORED]
        self.positions += range(len(ids))
        self.chats += [chat] * len(ids)

    def padded(self, length: int) -> tuple[list[int], ...]:
        rest = length - len(self.tokens)
        return (
            self.tokens + [0] * rest,
            self.targets + [IGNORED] * rest,
            self.positions + [0] * rest,
            self.chats + [0] * rest,
        )


def batches(encoded: Iterable[Encoded], rows: int, length: int) -> Iterator[Batch]:
    """Batches of `rows` rows. A chat goes into the first open row that has room; one longer than
    `length` is left out."""
    open_rows: list[_Row] = [_Row() for _ in range(rows)]
    for prompt, answer in encoded:
        size = len(prompt) + len(answer)
        if size > length:
            continue
        row = next((r for r in open_rows if len(r.tokens) + size <= length), None)
        if row is None:
            yield _batch(open_rows, length)
            open_rows = [_Row() for _ in range(rows)]
            row = open_rows[0]
        row.add(prompt, answer)


def _batch(rows: list[_Row], length: int) -> Batch:
    columns: Any = zip(*(r.padded(length) for r in rows), strict=True)
    return Batch(*(torch.tensor(c) for c in columns))
