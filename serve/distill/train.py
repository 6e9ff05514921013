"""Trains a reference checkpoint, from scratch or from another one, on the corpus or on traces.

The corpus is made while it runs, so no example is seen twice. Loss counts answers only. Matrices
are trained with Muon, the rest with AdamW; the learning rate warms up and falls by a cosine over
the minutes (or, repeatable to the bit on one machine, over the steps). A planner starts with half
of its layers and grows when GROW_AT of the way is gone. The folder that is written is a checkpoint
that vLLM loads; its `state.pt`, kept until the end, is what a resumed training goes on from.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
import torch
from torch.nn import functional

from cluster.errors import DataError, InvalidInput, Unavailable
from serve.distill.chats import TracedChat
from serve.distill.corpus import examples
from serve.distill.curves import Curves
from serve.distill.drills import copy_drill
from serve.distill.packing import CHATWISE, IGNORED, Batch, Encoded, batches
from serve.distill.shapes import SHAPES, grown, load, new_model, parameters, save
from serve.distill.tokenizer import build_tokenizer, encode
from serve.distill.vetting import validate

LONGEST: Final = 640  # tokens of a chat; longer ones are left out
WARM_UP: Final = 0.03
GROW_AT: Final = 0.6
VALIDATION_SEED: Final = 1_000_003
_SAVE_EVERY_S: Final = 300.0
_REPORT_EVERY: Final = 20
_CHECK_EVERY: Final = 200
_CHECKED: Final = 160  # validation chats
_DRILLS: Final = 0.10  # copying drills among chats, until GROW_AT
_REPLAY: Final = 0.5  # share of the corpus among traces, against forgetting

Say = Callable[[str], None]


def set_up(threads: int = 0) -> None:
    """Once a process: how many CPU threads (0: one for each core), and how small a number counts.

    A trained model's attention is full of weights near zero. As denormal numbers they make the
    CPU's arithmetic several times slower, so they count as zero.
    """
    torch.set_num_threads(threads or torch.get_num_threads())
    np.finfo(np.float64)  # numpy looks at denormals once, and warns when there are none by then
    torch.set_flush_denormal(True)


@dataclass(frozen=True)
class Options:
    """How to train. Ends after `steps` when given, else after `minutes`. `model` names the shape
    and its share of the corpus; `base` is a checkpoint folder to start from; `tokens_per_step` go
    into a step and `rate` is the highest learning rate."""

    model: str
    minutes: float = 30.0
    steps: int = 0
    seed: int = 7
    tokens_per_step: int = 4096
    rate: float = 3e-3
    base: str = ""


@dataclass
class Progress:
    """How far a training is: optimizer steps, chats drawn, tokens seen, seconds spent."""

    step: int = 0
    chats: int = 0
    tokens: int = 0
    seconds: float = 0.0
    layers: int = 0


class Training:
    """One training run into the folder `out`."""

    def __init__(
        self,
        options: Options,
        out: Path,
        say: Say,
        traces: list[TracedChat] | None = None,
        *,
        resume: bool = False,
    ) -> None:
        """Begins, or goes on from `out`/state.pt when asked to `resume`. Raises InvalidInput for an
        unknown model, a base that is no checkpoint, traces without one for training, or nothing to
        go on from; DataError for a damaged base."""
        if options.model not in SHAPES:
            raise InvalidInput("model", options.model, f"one of {', '.join(SHAPES)}")
        self.options, self.out, self._say = options, out, say
        self._traces = [t for t in traces or [] if t.split == "train"]
        if traces is not None and not self._traces:
            raise InvalidInput("from", len(traces), "a file with chats of the split 'train'")
        self._base = _record_of(options.base)
        self.progress = Progress()
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        if resume:
            self._resume()
        elif options.base:
            base = Path(options.base)
            validate(base, base, LONGEST)
            model, self.tokenizer = load(base)
            self._take(model)
        else:
            self.tokenizer = build_tokenizer(1)
            self._take(new_model(options.model, self.tokenizer, options.seed))

    def _resume(self) -> None:
        path = self.out / "state.pt"
        if not path.is_file():
            raise InvalidInput("resume", path, "a folder whose training was broken off")
        state = torch.load(path, map_location=self._device, weights_only=True)
        if state["options"] != asdict(self.options):
            raise InvalidInput("resume", asdict(self.options), f"as it began: {state['options']}")
        self.progress = Progress(**state["progress"])
        # The stored words, though the corpus may have changed since.
        model, self.tokenizer = load(self.out)
        self._take(grown(model, self.progress.layers))
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    def run(self) -> None:
        """Train to the end, telling of progress, and write the checkpoint."""
        self._say(f"{self.options.model}: {parameters(self.model):,} parameters on {self._device}")
        checks = self._validation()
        curves = Curves(self.out, fresh=self.progress.step == 0)
        started = saved = time.monotonic()
        started -= self.progress.seconds
        window = [0.0, 0.0, time.monotonic()]
        for batch in self._stream():
            done = self._done()
            if done >= 1.0:
                break
            self._grow(done)
            loss = self._step(batch.to(self._device), done)
            self.progress.step += 1
            self.progress.chats = batch.drawn
            self.progress.tokens += batch.tokens.numel()
            self.progress.seconds = time.monotonic() - started
            window = [window[0] + loss, window[1] + batch.tokens.numel(), window[2]]
            if self.progress.step % _REPORT_EVERY == 0:
                window = self._report(curves, window)
            if self.progress.step % _CHECK_EVERY == 0:
                self._check(curves, checks)
            if time.monotonic() - saved > _SAVE_EVERY_S:
                self._store()
                saved = time.monotonic()
        self._check(curves, checks)
        self._finish(curves)

    def _take(self, model: Any) -> None:
        model.set_attn_implementation(CHATWISE)
        self.model = model.to(self._device)
        self.progress.layers = len(model.model.layers)
        self._optimizers = _optimizers(model, self.options.rate)

    def _grow(self, done: float) -> None:
        layers = SHAPES[self.options.model].layers
        if done < GROW_AT or self.options.base or self.progress.layers >= layers:
            return
        self._take(grown(self.model, layers))
        self._say(f"grown to {layers} layers, {parameters(self.model):,} parameters")

    def _step(self, batch: Batch, done: float) -> float:
        _set_rate(self._optimizers, self.options.rate, done)
        logits, targets = self._answers(batch)
        loss = functional.cross_entropy(logits, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return float(loss.detach())

    def _answers(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and targets of the answers' tokens only."""
        # The CPU's bfloat16 instructions halve the time of a step; weights stay in float32.
        fast = self._device == "cuda" or torch.cpu._is_avx512_bf16_supported()
        with torch.autocast(self._device, torch.bfloat16, enabled=fast):
            hidden = self.model.model(
                input_ids=batch.tokens, position_ids=batch.positions, bounds=batch.bounds,
                attention_mask={"full_attention": None}, use_cache=False,
            ).last_hidden_state  # fmt: skip
            wanted = batch.targets != IGNORED
            logits = self.model.lm_head(hidden[wanted])
        return logits.float(), batch.targets[wanted]

    def _done(self) -> float:
        if self.options.steps:
            return self.progress.step / self.options.steps
        return self.progress.seconds / (60.0 * self.options.minutes)

    def _stream(self) -> Iterator[Batch]:
        begun = self.progress.chats
        for batch in batches(self._encoded(begun), self.options.tokens_per_step, LONGEST):
            yield replace(batch, drawn=begun + batch.drawn)

    def _encoded(self, start: int) -> Iterator[Encoded]:
        """The stream from number `start` on. What stands at a number depends on seed and number
        alone, but for the drills, which end at a point of the way."""
        corpus = examples(self.options.model, "train", self.options.seed, start)
        for number, example in enumerate(corpus, start):
            rng = Random(f"stream/{self.options.seed}/{number}")
            if self._traces and rng.random() >= _REPLAY:
                yield encode(self.tokenizer, rng.choice(self._traces).example)
            elif not self.options.base and rng.random() < _DRILLS * (self._done() < GROW_AT):
                yield copy_drill(rng, self.tokenizer)
            else:
                yield encode(self.tokenizer, example)

    def _validation(self) -> list[tuple[str, Batch]]:
        drawn = examples(self.options.model, "validation", VALIDATION_SEED)
        chats = list(islice(drawn, _CHECKED))
        found: list[tuple[str, Batch]] = []
        for kind in sorted({c.kind for c in chats}):
            encoded = (encode(self.tokenizer, c) for c in chats if c.kind == kind)
            found += [(kind, b) for b in batches(encoded, self.options.tokens_per_step, LONGEST)]
        return found

    def _check(self, curves: Curves, checks: list[tuple[str, Batch]]) -> None:
        """Tell validation loss and, by kind, the share of answers whose every token would be the
        greedy choice (the same as being written right by greedy decoding)."""
        losses: list[float] = []
        right: dict[str, list[int]] = {}
        for kind, batch in ((k, b.to(self._device)) for k, b in checks):
            with torch.no_grad():
                logits, targets = self._answers(batch)
            losses.append(float(functional.cross_entropy(logits, targets)))
            wrong = torch.zeros_like(batch.targets, dtype=torch.bool)
            wrong[batch.targets != IGNORED] = logits.argmax(-1) != targets
            chats = [wrong[0, start:end].any() for start, end in pairwise(batch.bounds)]
            count = right.setdefault(kind, [0, 0])
            count[0] += sum(not bool(c) for c in chats)
            count[1] += len(chats)
        loss = sum(losses) / len(losses)
        shares = {kind: of / total for kind, (of, total) in right.items()}
        curves.checked(self.progress.step, loss, shares)
        told = ", ".join(f"{kind} {of}/{total}" for kind, (of, total) in right.items())
        self._say(f"  validation after {self.progress.step} steps: loss {loss:.4f}; right: {told}")

    def _report(self, curves: Curves, window: list[float]) -> list[float]:
        speed = window[1] / (time.monotonic() - window[2])
        loss = window[0] / _REPORT_EVERY
        curves.trained(self.progress.step, loss, speed)
        self._say(
            f"{self.progress.seconds / 60:5.1f} min ({self._done():4.0%})  "
            f"step {self.progress.step}  loss {loss:.4f}  "
            f"{self.progress.tokens:,} tokens  {speed:,.0f} tokens/s"
        )
        return [0.0, 0.0, time.monotonic()]

    def _store(self) -> None:
        # The checkpoint comes second: one from before the model grew can be resumed from.
        state = {
            "options": asdict(self.options),
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self._optimizers],
            "progress": asdict(self.progress),
        }
        part = self.out / "state.part"
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            torch.save(state, part)
            part.replace(self.out / "state.pt")
        except (OSError, RuntimeError) as error:  # torch raises the latter when the disk is full
            raise Unavailable(f"room in {self.out}", str(error)) from error
        save(self.model, self.tokenizer, self.out)

    def _finish(self, curves: Curves) -> None:
        save(self.model.to("cpu"), self.tokenizer, self.out)
        (self.out / "state.pt").unlink(missing_ok=True)
        record = {**asdict(self.options), **asdict(self.progress)}
        record |= {
            "base": self._base,
            "traces": len(self._traces),
            "parameters": parameters(self.model),
        }
        text = json.dumps(record, indent=2) + "\n"
        (self.out / "training.json").write_text(text, encoding="utf-8")
        curves.plot()


def _record_of(base: str) -> dict[str, Any] | None:
    """What is known of the checkpoint that a training went on from: its folder's name, and its
    own training.json where it has one."""
    if not base:
        return None
    path = Path(base) / "training.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise DataError(str(path), f"not JSON: {error}") from None
    return {"name": Path(base).name, **record}


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


def _set_rate(optimizers: list[torch.optim.Optimizer], rate: float, done: float) -> None:
    scale = done / WARM_UP if done < WARM_UP else 0.5 * (1 + math.cos(math.pi * done))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * max(scale, 0.01)
