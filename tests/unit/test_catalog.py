"""The names that a client may use, their prices, and where a checkpoint lies."""

from pathlib import Path

import pytest

from cluster.errors import ConfigError, NotFound
from cluster.settings import ModelSection
from serve.catalog import EMBEDDING_MODEL, Catalog, cost_usd, model_card, resolve_source


def model(name: str, tier: str = "routine", context: int = 1024) -> ModelSection:
    return ModelSection.model_validate(
        {
            "id": name, "source": "x", "tier": tier, "max_model_len": context,
            "usd_per_mtok_in": 0.5, "usd_per_mtok_out": 2.0,
        }
    )  # fmt: skip


CATALOG = Catalog((model("big", "planner", 4096), model("small")))


def test_list_holds_routing_names_models_and_the_encoder() -> None:
    assert CATALOG.names() == ["auto", "auto-fast", "auto-plan", "big", "small", EMBEDDING_MODEL]


def test_routing_names_are_not_models() -> None:
    with pytest.raises(NotFound):
        CATALOG.model("auto")


def test_every_listed_name_has_a_card_and_no_other_has() -> None:
    for name in CATALOG.names():
        assert model_card(name, CATALOG, 7)["id"] == name
    assert model_card("auto", CATALOG, 7)["max_model_len"] == 4096
    with pytest.raises(NotFound):
        model_card("gpt", CATALOG, 7)


def test_cost_is_price_per_million_times_tokens() -> None:
    assert cost_usd(CATALOG.model("small"), 1_000_000, 500_000) == pytest.approx(1.5)


def test_shipped_checkpoint_resolves_to_its_folder(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text("{}")
    assert resolve_source("checkpoint:tiny", tmp_path) == str(tmp_path / "tiny")
    assert resolve_source("Qwen/Qwen3-4B", tmp_path) == "Qwen/Qwen3-4B"


def test_missing_checkpoint_names_those_that_ship(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="tiny"):
        resolve_source("checkpoint:huge", tmp_path)
