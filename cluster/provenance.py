"""Which settings hold and where each comes from, for people to look at; secrets are never told.

Hidden are fields that their section keeps out of its `repr`, and words whose name says that they
are secret; what stands in an address beside host and path is left out.

Not covered: a secret that somebody wrote into a field that is no place for one, as a model's name.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel

from cluster.settings import ENV_PREFIX, INFRA, Settings, load, profile_path, profile_values

Source = Literal["default", "profile", "file", "environment", "command"]
PROFILE: Final = f"{ENV_PREFIX}PROFILE"
SET: Final = "set, and not shown"
_SECRET: Final = re.compile(r"(?i)(token|secret|passw|api_?key|credential|authorization)")
_WEB: Final = ("http", "https")
_Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Setting:
    """One value. `where` is the profile, file or variable that it comes from; `command` is the
    program that started the stack. A `hidden` one says only whether it is set."""

    name: str
    value: Any
    source: Source
    where: str
    about: str = ""
    hidden: bool = False


def told(settings: Settings) -> tuple[Setting, ...]:
    """Every setting as it is, in the order of the manual. Reads profile and environment again;
    ConfigError as `cluster.settings.load`."""
    origins = _Origins(settings.profile)
    return tuple(origins.told(*leaf) for leaf in _leaves(settings, ()))


class _Origins:
    """What says what: the environment, a profile, and both together."""

    def __init__(self, profile: str) -> None:
        path = profile_path(profile)
        shipped = path.parent == INFRA / "profiles"
        self._source: Source = "profile" if shipped else "file"
        self._where = path.stem if shipped else str(path)
        self._file = profile_values(profile)
        self._variables = dict(_variables(os.environ))
        self._plain = load(profile)

    def told(self, path: _Path, value: Any, about: str, hidden: bool) -> Setting:
        name = _name(path, self._plain)
        shown, hidden = _shown(path, value, hidden)
        return Setting(name, shown, *self._origin(path, value), about, hidden)

    def _origin(self, path: _Path, value: Any) -> tuple[Source, str]:
        named = path == ("profile",) and self._variables.get(PROFILE, (path, "local"))[1] != value
        if named or _at(self._plain, path) != value:
            return "command", ""
        for variable, (begin, said) in self._variables.items():
            if path[: len(begin)] == begin and _holds(said, path[len(begin) :]):
                return "environment", variable
        return (self._source, self._where) if _holds(self._file, path) else ("default", "")


def _leaves(section: BaseModel, above: _Path) -> Iterator[tuple[_Path, Any, str, bool]]:
    """Each field that is no section itself: its path, value, description, and whether it is kept
    out of what is printed."""
    for name, field in type(section).model_fields.items():
        value, path = getattr(section, name), (*above, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, path)
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            for number, one in enumerate(value):
                yield from _leaves(one, (*path, number))
        else:
            yield path, value, field.description or "", not field.repr


def _variables(environ: Mapping[str, str]) -> Iterator[tuple[str, tuple[_Path, Any]]]:
    """Our variables, longest path first: the field that each sets, and what it says."""
    ours = {name: text for name, text in environ.items() if name.upper().startswith(ENV_PREFIX)}
    for name in sorted(ours, key=lambda one: -one.count("__")):
        path = tuple(name[len(ENV_PREFIX) :].lower().split("__"))
        try:
            said = json.loads(ours[name])
        except ValueError:
            said = ours[name]
        yield name, (path, said)


def _holds(said: Any, path: Sequence[str | int]) -> bool:
    """Whether what is said sets the field at `path`: `replicas: 2` sets both ends of it."""
    for part in path:
        if isinstance(said, dict):
            if part not in said:
                return False
            said = said[part]
        elif isinstance(said, list):
            if not isinstance(part, int) or part >= len(said):
                return False
            said = said[part]
        else:
            return True
    return True


def _at(settings: Any, path: _Path) -> Any:
    for part in path:
        if isinstance(part, int):
            settings = settings[part] if part < len(settings) else None
        else:
            settings = getattr(settings, part, None)
    return settings


def _name(path: _Path, settings: Settings) -> str:
    """`models.planner.source`: a row of a list by its own name."""
    parts = []
    for number, part in enumerate(path):
        row = _at(settings, path[: number + 1]) if isinstance(part, int) else None
        parts.append(str(getattr(row, "id", getattr(row, "name", part))))
    return ".".join(parts)


def _shown(path: _Path, value: Any, hidden: bool) -> tuple[Any, bool]:
    """What may be told of a value, and whether that is not all of it."""
    name = str(path[-1])
    address = isinstance(value, str) and "://" in value
    if address and hidden:
        return _host(value), True
    if hidden or (_SECRET.search(name) and not name.endswith("_env") and _is_text(value)):
        return (SET if value else ""), True
    plain = _plain(value)
    return plain, plain != _json(value)


def _plain(value: Any) -> Any:
    """A value as JSON, without what is secret within it."""
    if isinstance(value, Mapping):
        return {
            str(name): SET if _SECRET.search(str(name)) and _is_text(one) else _plain(one)
            for name, one in value.items()
        }
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    if isinstance(value, str) and "://" in value:
        return _address(value)
    return _json(value)


def _is_text(value: Any) -> bool:
    return bool(value) and isinstance(value, str | Mapping | tuple | list)


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _json(one) for name, one in value.items()}
    if isinstance(value, tuple | list):
        return [_json(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def _address(value: str) -> str:
    """An address without who asks and with what: scheme, host and path."""
    scheme, _, rest = value.partition("://")
    rest = re.split(r"[?#]", rest)[0]
    owner, _, path = rest.partition("/")
    return f"{scheme}://{owner.rpartition('@')[2]}" + (f"/{path}" if "/" in rest else "")


def _host(value: str) -> str:
    """As `_address`; of a web address the path may be the secret."""
    plain = _address(value)
    scheme, host = urlsplit(plain).scheme, urlsplit(plain).netloc
    return f"{scheme}://{host}/..." if scheme in _WEB else plain
