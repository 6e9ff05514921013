"""Macros: answers that a team has written once, with blanks that the desk fills in.

macros.yaml beside the desk's data lists them:

    - name: tracking-sent
      about: the parcel is on its way
      intents: [order_status, delivery_late]
      text: |
        Hello {name}, ...

Blanks: {name}, {ticket}, {order}, {by}. A macro names the intents that it is an answer to.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from cluster.errors import Conflict, DataError, NotFound

BLANKS: Final = ("name", "ticket", "order", "by")
FILE: Final = "macros.yaml"
_BLANK: Final = re.compile(r"\{([^{}]*)\}")


class Macro(BaseModel):
    """One of them; `closes` also closes the ticket."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,60}$")
    about: str = Field("", max_length=200)
    intents: tuple[str, ...] = ()
    text: str = Field(min_length=1, max_length=10_000)
    closes: bool = False

    @field_validator("text")
    @classmethod
    def _known_blanks(cls, value: str) -> str:
        if unknown := sorted({b for b in _BLANK.findall(value)} - set(BLANKS)):
            raise ValueError(f"{{{unknown[0]}}} is no blank; there are {list(BLANKS)}")
        return value

    def filled(self, values: Mapping[str, str]) -> str:
        """The text with its blanks filled in; Conflict when there is nothing to fill one with."""
        for blank in _BLANK.findall(self.text):
            if not values.get(blank):
                raise Conflict(f"macro {self.name}", f"there is no {blank} to put into it")
        return _BLANK.sub(lambda m: values[m[1]], self.text).strip()


class Macros:
    """Those of a folder, by name; none where it has no file. DataError when the file is not what
    it should be."""

    def __init__(self, folder: Path) -> None:
        file = folder / FILE
        self._macros: dict[str, Macro] = {}
        if not file.is_file():
            return
        try:
            told = yaml.safe_load(file.read_text("utf-8")) or []
            if not isinstance(told, list):
                raise ValueError("expected a list of macros")
            made = [Macro.model_validate(one) for one in told]
        except (OSError, ValueError, ValidationError, yaml.YAMLError) as error:
            raise DataError(str(file), f"no list of macros ({error})") from None
        self._macros = {macro.name: macro for macro in made}
        if len(self._macros) != len(made):
            raise DataError(str(file), "two macros have one name")

    def require(self, name: str) -> Macro:
        """NotFound, with the names that there are."""
        if name not in self._macros:
            raise NotFound("macro", f"{name} (there are {sorted(self._macros)})")
        return self._macros[name]

    def fitting(self, intent: str = "") -> list[Macro]:
        """All of them, those for this intent first."""
        return sorted(self._macros.values(), key=lambda m: (intent not in m.intents, m.name))
