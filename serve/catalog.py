"""The names a client may put into `model`: configured models, routing names, the encoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cluster.errors import ConfigError, NotFound
from cluster.settings import ModelSection

AUTO: Final = "auto"
AUTO_FAST: Final = "auto-fast"
AUTO_PLAN: Final = "auto-plan"
ROUTING_NAMES: Final = (AUTO, AUTO_FAST, AUTO_PLAN)
EMBEDDING_MODEL: Final = "minilm"

_CHECKPOINT = "checkpoint:"
_CHECKPOINTS = Path(__file__).resolve().parent / "checkpoints"


@dataclass(frozen=True)
class Catalog:
    """The configured models, in the order of the profile; `outside` are those at other houses."""

    models: tuple[ModelSection, ...]
    outside: tuple[ModelSection, ...] = ()

    def names(self) -> list[str]:
        """Everything `GET /v1/models` lists: routing names, models, the embedding model."""
        models = (*self.models, *self.outside)
        return [*ROUTING_NAMES, *(m.id for m in models), EMBEDDING_MODEL]

    def model(self, name: str) -> ModelSection:
        """The model with this id. Raises NotFound for anything else, routing names included."""
        for model in (*self.models, *self.outside):
            if model.id == name:
                return model
        raise NotFound("model", name)

    def of_tier(self, tier: str) -> list[str]:
        """Ids of a tier's models, in order."""
        return [m.id for m in self.models if m.tier == tier]

    def widest_context(self) -> int:
        """Tokens that fit into the roomiest model's context."""
        return max(m.max_model_len for m in self.models)


def cost_usd(model: ModelSection, prompt_tokens: int, completion_tokens: int) -> float:
    """What these tokens cost at the model's list price, USD."""
    millions_in, millions_out = prompt_tokens / 1e6, completion_tokens / 1e6
    return millions_in * model.usd_per_mtok_in + millions_out * model.usd_per_mtok_out


def model_card(name: str, catalog: Catalog, created: int) -> Mapping[str, object]:
    """One entry of `GET /v1/models`. Raises NotFound for a name that the catalog lacks."""
    card: dict[str, object] = {
        "id": name, "object": "model", "created": created, "owned_by": "mainspring",
    }  # fmt: skip
    if name in ROUTING_NAMES:
        return card | {"max_model_len": catalog.widest_context(), "routed": True}
    if name == EMBEDDING_MODEL:
        return card | {"embedding_dimensions": 384}
    model = catalog.model(name)
    prices = {"input": model.usd_per_mtok_in, "output": model.usd_per_mtok_out}
    return card | {
        "max_model_len": model.max_model_len, "tier": model.tier, "usd_per_million_tokens": prices,
    }  # fmt: skip


def resolve_source(source: str, folder: Path = _CHECKPOINTS) -> str:
    """`checkpoint:NAME` as the absolute folder of a shipped checkpoint; else `source` as it is.

    Raises ConfigError when no such checkpoint is there.
    """
    if not source.startswith(_CHECKPOINT):
        return source
    path = folder / source.removeprefix(_CHECKPOINT)
    if not (path / "config.json").is_file():
        known: Sequence[str] = sorted(p.parent.name for p in folder.glob("*/config.json"))
        raise ConfigError("models.source", source, f"one of the shipped checkpoints {list(known)}")
    return str(path)


def head_folder(name: str, folder: Path = _CHECKPOINTS / "intents") -> Path:
    """The folder of an intent head: `name` as a path when it is one, else what ships.

    Raises ConfigError when there is no trained head.
    """
    path = Path(name)
    path = path if path.is_dir() else folder / name
    if not (path / "metrics.json").is_file():
        raise ConfigError("support.intents", name, "a folder that `mainspring intents train` made")
    return path
