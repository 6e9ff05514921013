"""Boards, data source, folder and contact points in Grafana, through grafana-client.

Safe to run twice: what is there already, as it should be, is left alone. All of Grafana is read
before anything is written, and when a write fails, what was written before it is taken back.
Needs the extra `grafana`.

Covered: Grafana 10.1 and newer, one organisation, the one of the token. Not covered: alert rules
and notification policies of Grafana's own; the shipped rules run in Prometheus.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import requests
from grafana_client import GrafanaApi
from grafana_client.client import GrafanaClientError, GrafanaException

from cluster.boards import BOARDS
from cluster.errors import ConfigError, Conflict, MainspringError, Unavailable
from cluster.panels import SOURCE, drawn
from cluster.settings import GrafanaSection
from cluster.telemetry import logger

log = logger("dashboards")

FOLDER: Final = "mainspring"
OLDEST: Final = (10, 1)
_TIMEOUT_S: Final = 10.0
_SHOWN: Final = 60

Body = dict[str, Any]


@dataclass(frozen=True)
class Shelf:
    """One kind of thing in Grafana and its four verbs. `find` answers None where there is none of
    that uid; `right` is the permission that Grafana asks for, without its last word."""

    kind: str
    right: str
    find: Callable[[str], Body | None]
    create: Callable[[Body], object]
    update: Callable[[str, Body], object]
    remove: Callable[[str], object]


@dataclass(frozen=True)
class Change:
    """What would make one thing as it should be. `found` is None where there is none yet; then
    `lines`, which say what differs, is empty."""

    shelf: Shelf
    uid: str
    name: str
    wanted: Body
    found: Body | None
    lines: tuple[str, ...] = ()

    @property
    def verb(self) -> str:
        if self.found is None:
            return "create"
        return "update" if self.lines else "same"

    def do(self) -> None:
        if self.found is None:
            self.shelf.create(self.wanted)
        else:
            self.shelf.update(self.uid, self.wanted)

    def undo(self) -> None:
        if self.found is None:
            self.shelf.remove(self.uid)
        else:
            self.shelf.update(self.uid, self.found)


class Boards:
    """What `section` asks for, in the Grafana at its address."""

    def __init__(self, section: GrafanaSection) -> None:
        self._section = section
        # The client puts "api" right behind the path: without the slash a path would swallow it.
        url = section.url.rstrip("/") + "/"
        self._api = GrafanaApi.from_url(url, section.token, timeout=_TIMEOUT_S)

    def changes(self) -> list[Change]:
        """Everything that there should be, in the order in which it is to be made; reads only.

        Raises Unavailable when Grafana does not answer or fails, ConfigError when it is too old,
        something else, or refuses: the error names the address, the token or the right.
        """
        self._require_grafana()
        return [self._compared(shelf, body) for shelf, body in self._wanted()]

    def apply(self, changes: Sequence[Change]) -> None:
        """Make the changes, all or none. Raises as `changes` does."""
        done: list[Change] = []
        for change in (c for c in changes if c.verb != "same"):
            try:
                with self._our_errors(f"{change.shelf.right}:{_last_word(change)}"):
                    change.do()
            except MainspringError:
                self._take_back(done)
                raise
            done.append(change)

    def _require_grafana(self) -> None:
        with self._our_errors("an account"):
            health = self._api.health.check()
        if not isinstance(health, dict) or "database" not in health:
            raise ConfigError("grafana.url", self._section.url, "the address of a Grafana")
        version = str(health.get("version", ""))
        numbers = version.split("-")[0].split(".")[:2]
        # A Grafana may hide its version.
        if all(n.isdigit() for n in numbers) and tuple(map(int, numbers)) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise ConfigError("Grafana's version", version, f"{oldest} or newer")

    def _wanted(self) -> Iterator[tuple[Shelf, Body]]:
        # First what most tokens may not do: a refusal then leaves nothing to take back.
        yield self._sources(), _source(self._section)
        for body in _contacts(self._section):
            yield self._contacts(), body
        yield self._folders(), {"uid": FOLDER, "title": self._section.folder}
        for board in BOARDS:
            yield self._boards(), drawn(board)

    def _compared(self, shelf: Shelf, wanted: Body) -> Change:
        uid = str(wanted["uid"])
        with self._our_errors(f"{shelf.right}:read"):
            found = shelf.find(uid)
        lines = () if found is None else tuple(differences(wanted, found))
        return Change(shelf, uid, str(wanted.get("title") or wanted["name"]), wanted, found, lines)

    def _take_back(self, done: list[Change]) -> None:
        for change in reversed(done):
            try:
                with self._our_errors(f"{change.shelf.right}:delete"):
                    change.undo()
            except MainspringError as error:
                log.error("the new %s %s stays: %s", change.shelf.kind, change.name, error)

    def _sources(self) -> Shelf:
        api = self._api.datasource
        return Shelf(
            "data source", "datasources",
            lambda uid: _found(lambda: api.get_datasource_by_uid(uid)),
            api.create_datasource, api.update_datasource_by_uid, api.delete_datasource_by_uid,
        )  # fmt: skip

    def _contacts(self) -> Shelf:
        api = self._api.alertingprovisioning

        def find(uid: str) -> Body | None:
            return next((c for c in api.get_contactpoints() or [] if c.get("uid") == uid), None)

        return Shelf(
            "contact point", "alert.provisioning", find,
            api.create_contactpoint, api.update_contactpoint, api.delete_contactpoint,
        )  # fmt: skip

    def _folders(self) -> Shelf:
        api = self._api.folder
        return Shelf(
            "folder", "folders",
            lambda uid: _found(lambda: api.get_folder(uid)),
            lambda body: api.create_folder(body["title"], body["uid"]),
            lambda uid, body: api.update_folder(uid, body["title"], overwrite=True),
            api.delete_folder,
        )  # fmt: skip

    def _boards(self) -> Shelf:
        api = self._api.dashboard

        def find(uid: str) -> Body | None:
            found = _found(lambda: api.get_dashboard(uid))
            return None if found is None else found["dashboard"]

        def save(body: Body) -> object:
            # Grafana counts ids and versions itself, and overwrites none but its newest version.
            board = {k: v for k, v in body.items() if k not in {"id", "version"}}
            return api.update_dashboard(
                {"dashboard": board, "folderUid": FOLDER, "overwrite": True,
                 "message": "mainspring dashboards apply"}
            )  # fmt: skip

        return Shelf(
            "board", "dashboards", find, save, lambda _, body: save(body), api.delete_dashboard
        )

    @contextmanager
    def _our_errors(self, right: str) -> Iterator[None]:
        """Grafana's errors as ours; `right` is what the request needs."""
        url = self._section.url
        try:
            yield
        except requests.exceptions.JSONDecodeError:
            raise ConfigError("grafana.url", url, "the address of a Grafana") from None
        except requests.RequestException as error:
            raise Unavailable(f"Grafana at {url}", _plain(error)) from error
        except GrafanaException as error:
            raise self._as_ours(error, right) from error

    def _as_ours(self, error: GrafanaException, right: str) -> MainspringError:
        url = self._section.url
        if error.status_code == 401:
            return ConfigError("grafana.token", "***", f"a token that the Grafana at {url} knows")
        if error.status_code == 403:
            return ConfigError(
                "grafana.token", "***", f"one whose account has the right {right} ({error.message})"
            )
        if isinstance(error, GrafanaClientError):
            return Conflict(f"Grafana at {url}", str(error.message))
        return Unavailable(f"Grafana at {url}", str(error.message))


def differences(wanted: Any, found: Any, where: str = "") -> Iterator[str]:
    """Where `found` is not as `wanted`, a line each; what Grafana adds of its own is no matter."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key, value in wanted.items():
            yield from differences(value, found.get(key), f"{where}.{key}" if where else key)
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for place, value in enumerate(wanted):
            yield from differences(value, found[place], f"{where}[{place}]")
    elif wanted != found:
        yield f"{where}: {_short(found)} -> {_short(wanted)}"


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} of them"
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else shown[: _SHOWN - 3] + "..."


def _source(section: GrafanaSection) -> Body:
    return {
        "uid": SOURCE, "name": "Mainspring", "type": "prometheus", "access": "proxy",
        "url": section.prometheus,
        "jsonData": {"httpMethod": "POST", "timeInterval": "15s"},
    }  # fmt: skip


def _contacts(section: GrafanaSection) -> Iterator[Body]:
    for severity, address in (("page", section.pages_to), ("ticket", section.tickets_to)):
        if not address:
            continue
        mail = "@" in address and "://" not in address
        yield {
            "uid": f"mainspring-{severity}", "name": f"Mainspring: {severity}",
            "type": "email" if mail else "webhook",
            "settings": {"addresses": address} if mail else {"url": address},
            "disableResolveMessage": False,
        }  # fmt: skip


def _found(ask: Callable[[], Any]) -> Body | None:
    try:
        return cast(Body, ask())
    except GrafanaException as error:
        if error.status_code == 404:
            return None
        raise


def _last_word(change: Change) -> str:
    return "create" if change.found is None and change.shelf.kind != "contact point" else "write"


def _plain(error: requests.RequestException) -> str:
    if isinstance(error, requests.Timeout):
        return f"no answer within {_TIMEOUT_S:g} s"
    if isinstance(error, requests.ConnectionError):
        return "nobody answers there"
    return str(error)
