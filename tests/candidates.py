"""Candidates for promotion: copies of the shipped routine checkpoint, changed a little."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from serve.catalog import resolve_source
from serve.distill.digest import digest
from serve.distill.evaluate import FILE, compared

INCUMBENT = Path(resolve_source("checkpoint:routine"))


def candidate(folder: Path, scale: float = 1.0, base: Path = INCUMBENT) -> Path:
    """A copy of `base` whose last norm is scaled: other weights, and with a large or negative
    `scale` other answers."""
    shutil.copytree(base, folder)
    for path in sorted(folder.glob("*.safetensors")):
        weights = load_file(path)
        if "model.norm.weight" in weights:
            weights["model.norm.weight"] *= scale
            save_file(weights, path, metadata={"format": "pt"})
    return folder


def evaluated(
    folder: Path, incumbent: Path = INCUMBENT, better_by: float = 0.0, count: int = 40
) -> Path:
    """Write the evaluation that these scores make: the candidate's are better by `better_by`."""
    scores = [0.5 + better_by] * count
    found = compared(digest(folder), digest(incumbent), scores, [0.5] * count)
    (folder / FILE).write_text(json.dumps(asdict(found)), encoding="utf-8")
    return folder


def shard(folder: Path) -> Path:
    """The first file with weights."""
    return sorted(folder.glob("*.safetensors"))[0]


def change_weight(folder: Path, name: str, value: float) -> None:
    """Set one number of a tensor, wherever it lies."""
    for path in sorted(folder.glob("*.safetensors")):
        weights = load_file(path)
        if name in weights:
            weights[name].view(-1)[0] = torch.tensor(value)
            save_file(weights, path, metadata={"format": "pt"})
            return
    raise AssertionError(f"no tensor {name}")
