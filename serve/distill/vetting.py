"""Can a folder serve in place of another checkpoint? Looked at before anything is touched: that it
is a whole Qwen3 checkpoint, that its weights are numbers, and that it reads and writes the same
text as the one before it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HFValidationError,
    LocalEntryNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from cluster.errors import DataError, InvalidInput

_ARCHITECTURE: Final = "Qwen3ForCausalLM"
_INDEX: Final = "model.safetensors.index.json"
_HEAD: Final = "lm_head.weight"  # may be left out where it is the embedding once more
_LAYER: Final = "model.layers."
# What transformers and torch make of a configuration whose values mean nothing.
_NONSENSE: Final = (
    StrictDataclassError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip


def validate(folder: Path, like: Path, context: int) -> None:
    """Raises InvalidInput when `folder` is no checkpoint that can stand in for the one in `like`
    with a context of `context` tokens, and DataError, naming the file, when it is damaged."""
    config = _config(folder, context)
    _check_weights(folder, config)
    _check_text(folder, like, config)


def local_folder(source: str) -> Path:
    """Where a checkpoint lies: `source` when it is a folder, else what the Hugging Face cache has
    of it. InvalidInput when it is nowhere on this machine."""
    if Path(source).is_dir():
        return Path(source)
    try:
        return Path(snapshot_download(source, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        expected = "a folder, or a model that the Hugging Face cache holds"
        raise InvalidInput("incumbent", source, expected) from None


def _config(folder: Path, context: int) -> Qwen3Config:
    path = folder / "config.json"
    values = _json(path)
    if values.get("architectures") != [_ARCHITECTURE]:
        found = values.get("architectures")
        raise InvalidInput(f"architectures in {path}", found, f"[{_ARCHITECTURE!r}]")
    try:
        config = Qwen3Config(**values)
    except _NONSENSE as error:
        raise DataError(str(path), f"no configuration of Qwen3: {error}") from None
    if config.max_position_embeddings < context:
        raise InvalidInput(
            f"max_position_embeddings in {path}", config.max_position_embeddings,
            f"at least {context}, the max_model_len of the profile",
        )  # fmt: skip
    return config


def _check_weights(folder: Path, config: Qwen3Config) -> None:
    """That the tensors are those of the configuration, and finite."""
    found = {name: (file, shape) for file, name, shape in _tensors(folder)}
    layers = len({n.split(".")[2] for n in found if n.startswith(_LAYER)})
    if layers != config.num_hidden_layers:  # also keeps a made-up million from being built
        raise DataError(
            str(folder), f"config.json has {config.num_hidden_layers} layers, the weights {layers}"
        )
    expected = _expected(folder, config)
    if config.tie_word_embeddings and _HEAD not in found:
        del expected[_HEAD]
    if missing := sorted(expected.keys() - found.keys()):
        raise DataError(str(folder), f"its *.safetensors lack {_some(missing)}")
    if foreign := sorted(found.keys() - expected.keys()):
        raise DataError(str(found[foreign[0]][0]), f"config.json knows nothing of {_some(foreign)}")
    for name, (file, shape) in sorted(found.items()):
        if shape != expected[name]:
            raise DataError(str(file), f"{name} is {shape}; config.json makes it {expected[name]}")
    for file in sorted({file for file, _ in found.values()}):
        _check_finite(file)


def _expected(folder: Path, config: Qwen3Config) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that the configuration makes."""
    try:
        with torch.device("meta"):
            model = Qwen3ForCausalLM(config)
    except _NONSENSE as error:
        reason = f"no model can be made of it: {error}"
        raise DataError(str(folder / "config.json"), reason) from None
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _tensors(folder: Path) -> Iterator[tuple[Path, str, tuple[int, ...]]]:
    """File, name and shape of every tensor."""
    for file in _weight_files(folder):
        try:
            with safe_open(file, framework="pt") as weights:
                for name in weights.keys():
                    yield file, name, tuple(weights.get_slice(name).get_shape())
        except (SafetensorError, OSError) as error:
            raise DataError(str(file), f"no whole safetensors file: {error}") from None


def _weight_files(folder: Path) -> list[Path]:
    """The files that vLLM loads: those of the index where there is one."""
    index = folder / _INDEX
    if not index.is_file():
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise InvalidInput("candidate", str(folder), "a folder with *.safetensors")
        return files
    named = _json(index).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise DataError(str(index), "it has no weight_map")
    files = [folder / str(name) for name in sorted(set(named.values()))]
    if missing := [f.name for f in files if not f.is_file()]:
        raise DataError(str(index), f"it names files that are not there: {_some(missing)}")
    return files


def _check_finite(file: Path) -> None:
    with safe_open(file, framework="pt") as weights:
        for name in weights.keys():
            if not torch.isfinite(weights.get_tensor(name)).all():
                raise DataError(str(file), f"{name} holds values that are no finite numbers")


def _check_text(folder: Path, like: Path, config: Qwen3Config) -> None:
    """That both have one vocabulary, one set of special tokens and one chat template."""
    ours, theirs = _tokenizer(folder), _tokenizer(like)
    before = _json(like / "config.json")
    facts = {
        "vocabulary": (ours.get_vocab(), theirs.get_vocab()),
        "special tokens": (ours.special_tokens_map, theirs.special_tokens_map),
        "chat template": (ours.chat_template, theirs.chat_template),
        "vocab_size": (config.vocab_size, before.get("vocab_size")),
        "eos_token_id": (config.eos_token_id, before.get("eos_token_id")),
    }
    for what, (found, expected) in facts.items():
        if found != expected:
            shown = f"{len(found)} tokens" if isinstance(found, dict) else found
            raise InvalidInput(f"{what} in {folder}", shown, f"the same as in {like}")


def _tokenizer(folder: Path) -> Any:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InvalidInput("candidate", str(folder), "a folder with tokenizer.json")
    _json(path)
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(str(path), f"no tokenizer: {error}") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        expected = f"a folder with {path.name}"
        raise InvalidInput("candidate", str(path.parent), expected) from None
    except (ValueError, RecursionError) as error:
        raise DataError(str(path), f"not JSON: {error}") from None
    if not isinstance(values, dict):
        raise DataError(str(path), "not a JSON object")
    return values


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
