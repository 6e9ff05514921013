"""Our package names are common words: nobody else in this environment may own one."""

import importlib
import importlib.metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = ("cluster", "memory", "agents", "serve", "infra")


@pytest.mark.parametrize("name", NAMES)
def test_no_other_distribution_owns_our_package(name: str) -> None:
    owners = set(importlib.metadata.packages_distributions().get(name, []))
    assert owners <= {"mainspring"}


@pytest.mark.parametrize("name", NAMES[:4])
def test_the_package_that_is_imported_is_ours(name: str) -> None:
    found = importlib.import_module(name)
    assert found.__file__ is not None
    assert Path(found.__file__).parent == ROOT / name
