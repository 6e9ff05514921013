"""Trains a reference checkpoint from scratch.

    python -m serve.distill.train --model planner --minutes 30 --seed 7 --out DIR [--resume]

The corpus is made while it runs, so no example is seen twice. Loss counts answers only. Matrices
are trained with Muon, the rest with AdamW; the learning rate warms up and falls by a cosine over
the minutes (or, repeatable to the bit on one machine, over `--steps`). DIR is a checkpoint that
vLLM loads; DIR/state.pt, kept until the end, is what `--resume` goes on from.
"""

import argparse
import json
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Final

import torch
from torch.nn import functional

from serve.distill.corpus import TASKS, examples
from serve.distill.drills import copy_drill
from serve.distill.packing import IGNORED, Batch, Encoded, batches
from serve.distill.shapes import load, new_model, parameters, save
from serve.distill.tokenizer import build_tokenizer, encode

LENGTH: Final = 512
WARM_UP: Final = 0.03
VALIDATION_SEED: Final = 1_000_003
_SAVE_EVERY_S: Final = 240.0
_REPORT_EVERY: Final = 20
_CHECK_EVERY: Final = 100
_DRILLS: Final = 0.15


@dataclass(frozen=True)
class Options:
    """How to train. Ends at `steps` when given, else after `minutes`."""

    model: str
    minutes: float
    steps: int
    seed: int
    rows: int
    rate: float
    compiled: bool
    start: str = ""


@dataclass
class Progress:
    """How far a training is: optimizer steps, chats drawn, tokens seen, seconds spent."""

    step: int = 0
    chats: int = 0
    tokens: int = 0
    seconds: float = 0.0


def train(options: Options, out: Path, *, resume: bool) -> None:
    """Train, print progress, and write the checkpoint folder `out`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = build_tokenizer(1)
    if options.start:
        model, tokenizer = load(Path(options.start))
        model.to(device)
    else:
        model = new_model(options.model, tokenizer, options.seed).to(device)
    optimizers = _optimizers(model, options.rate)
    progress = Progress()
    if resume:
        progress = _restore(out, model, optimizers, device)
    print(f"{options.model}: {parameters(model):,} parameters on {device}", flush=True)
    body = torch.compile(model.model) if options.compiled else model.model
    checks = _validation(options, tokenizer)
    started, saved = time.monotonic() - progress.seconds, time.monotonic()
    window = [0.0, 0.0, time.monotonic()]
    for batch in _stream(options, tokenizer, progress):
        done = _done(options, progress)
        if done >= 1.0:
            break
        _set_rate(optimizers, options.rate, done)
        loss = _loss(model, body, batch.to(device), device)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        progress.step += 1
        progress.tokens += int((batch.chats > 0).sum())
        progress.seconds = time.monotonic() - started
        window = _report(progress, window, float(loss.detach()), int((batch.chats > 0).sum()))
        if progress.step % _CHECK_EVERY == 0:
            _check(model, body, checks, device, progress)
        if time.monotonic() - saved > _SAVE_EVERY_S:
            _store(out, model, tokenizer, optimizers, progress)
            saved = time.monotonic()
    _check(model, body, checks, device, progress)
    save(model.to("cpu"), tokenizer, out)
    (out / "state.pt").unlink(missing_ok=True)
    record = {**asdict(options), **asdict(progress), "parameters": parameters(model)}
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _loss(model: Any, body: Any, batch: Batch, device: str) -> torch.Tensor:
    logits, targets = _answers(model, body, batch, device)
    return functional.cross_entropy(logits, targets)


def _answers(model: Any, body: Any, batch: Batch, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and targets of the answers' tokens only."""
    # The CPU's bfloat16 instructions halve the time of a step; weights stay in float32.
    fast = device == "cuda" or torch.cpu._is_avx512_bf16_supported()
    with torch.autocast(device, torch.bfloat16, enabled=fast):
        hidden = body(
            input_ids=batch.tokens,
            attention_mask=batch.mask(),
            position_ids=batch.positions,
            use_cache=False,
        ).last_hidden_state
        wanted = batch.targets != IGNORED
        logits = model.lm_head(hidden[wanted])
    return logits.float(), batch.targets[wanted]


def _optimizers(model: Any, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embedding and the norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(
            matrices, lr=rate, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def _done(options: Options, progress: Progress) -> float:
    if options.steps:
        return progress.step / options.steps
    return progress.seconds / (60.0 * options.minutes)


def _set_rate(optimizers: list[torch.optim.Optimizer], rate: float, done: float) -> None:
    scale = done / WARM_UP if done < WARM_UP else 0.5 * (1 + math.cos(math.pi * done))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * max(scale, 0.01)


def _stream(options: Options, tokenizer: Any, progress: Progress) -> Iterator[Batch]:
    def encoded() -> Iterator[Encoded]:
        chats = examples(options.model, "train", options.seed)
        for example in islice(chats, progress.chats, None):
            rng = Random(f"drill/{options.seed}/{progress.chats}")
            progress.chats += 1
            yield encode(tokenizer, example)
            if options.model == "routine" and rng.random() < _DRILLS:
                yield copy_drill(rng, tokenizer)

    return batches(encoded(), options.rows, LENGTH)


def _validation(options: Options, tokenizer: Any) -> list[Batch]:
    chats = islice(examples(options.model, "validation", VALIDATION_SEED), 400)
    return list(islice(batches((encode(tokenizer, c) for c in chats), options.rows, LENGTH), 6))


def _check(model: Any, body: Any, checks: list[Batch], device: str, progress: Progress) -> None:
    """Print validation loss and the share of answers whose every token would be the greedy choice
    (the same as being written right by greedy decoding)."""
    losses, right, total = [], 0, 0
    for batch in (b.to(device) for b in checks):
        with torch.no_grad():
            logits, targets = _answers(model, body, batch, device)
        losses.append(float(functional.cross_entropy(logits, targets)))
        wrong = logits.argmax(-1) != targets
        rows = torch.arange(len(batch.chats), device=targets.device)[:, None]
        chats = (rows * 1000 + batch.chats)[batch.targets != IGNORED]
        total += len(chats.unique())
        right += len(chats.unique()) - len(chats[wrong].unique())
    print(
        f"  validation after {progress.step} steps: loss {sum(losses) / len(losses):.4f}, "
        f"whole answers right {right}/{total}",
        flush=True,
    )


def _report(progress: Progress, window: list[float], loss: float, tokens: int) -> list[float]:
    window = [window[0] + loss, window[1] + tokens, window[2]]
    if progress.step % _REPORT_EVERY:
        return window
    speed = window[1] / (time.monotonic() - window[2])
    print(
        f"{progress.seconds / 60:5.1f} min  step {progress.step}  "
        f"loss {window[0] / _REPORT_EVERY:.4f}  {progress.tokens:,} tokens  {speed:,.0f} tokens/s",
        flush=True,
    )
    return [0.0, 0.0, time.monotonic()]


def _store(
    out: Path,
    model: Any,
    tokenizer: Any,
    optimizers: list[torch.optim.Optimizer],
    progress: Progress,
) -> None:
    save(model, tokenizer, out)
    state = {
        "model": model.state_dict(),
        "optimizers": [o.state_dict() for o in optimizers],
        "progress": asdict(progress),
    }
    torch.save(state, out / "state.part")
    (out / "state.part").replace(out / "state.pt")


def _restore(
    out: Path, model: Any, optimizers: list[torch.optim.Optimizer], device: str
) -> Progress:
    state = torch.load(out / "state.pt", map_location=device, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return Progress(**state["progress"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a reference checkpoint from scratch.")
    parser.add_argument("--model", choices=TASKS, required=True)
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument("--minutes", type=float, default=30.0, help="time to train (default 30)")
    parser.add_argument("--steps", type=int, default=0, help="train this many steps instead")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--rows", type=int, default=8, help="rows of 512 tokens a step")
    parser.add_argument("--rate", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--start", default="", help="a checkpoint folder to start from")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/state.pt")
    parser.add_argument("--no-compile", action="store_true", help="don't use torch.compile")
    args = parser.parse_args()
    compiled = not args.no_compile and shutil.which("g++") is not None
    options = Options(
        args.model, args.minutes, args.steps, args.seed, args.rows, args.rate, compiled, args.start
    )
    train(options, args.out, resume=args.resume)


if __name__ == "__main__":
    main()
