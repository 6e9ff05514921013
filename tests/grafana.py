"""A server on loopback that speaks the part of Grafana's HTTP API that `cluster/dashboards.py`
needs, as Grafana's documentation describes it, with the ways in which a Grafana says no."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "glsa_tests"
_RIGHTS = {
    "datasources": "datasources", "folders": "folders", "dashboards": "dashboards",
    "v1": "alert.provisioning",
}  # fmt: skip
_VERBS = {"GET": "read", "POST": "create", "PUT": "write", "DELETE": "delete"}


class Grafana:
    """What it holds, by kind and uid. `lacking` is a right that the token has not, `fails` the
    number of the write that ends in a 500; `writes` are those that were asked for."""

    def __init__(self, version: str = "12.1.0") -> None:
        self.version, self.lacking, self.fails = version, "", 0
        self.held: dict[str, dict[str, Any]] = {
            "datasources": {}, "folders": {}, "dashboards": {}, "v1": {},
        }  # fmt: skip
        self.writes: list[str] = []
        self.url = ""

    def answer(self, method: str, path: str, token: str, body: Any) -> tuple[int, Any]:
        if path == "/api/health":
            return 200, {"database": "ok", "version": self.version, "commit": "0"}
        if token != f"Bearer {TOKEN}":
            return 401, {"message": "Invalid API key"}
        kind, *rest = path.removeprefix("/api/").split("/")
        right = f"{_RIGHTS[kind]}:{self._verb(kind, method)}"
        if self.lacking == right:
            text = f"You'll need additional permissions. Permissions needed: {right}"
            return 403, {"accessErrorId": "ACE1", "message": text, "title": "Access denied"}
        if method != "GET":
            self.writes.append(f"{method} {path}")
            if len(self.writes) == self.fails:
                return 500, {"message": "database is locked"}
        answering = {
            "datasources": self._sources, "folders": self._folders,
            "dashboards": self._dashboards, "v1": self._contacts,
        }[kind]  # fmt: skip
        return answering(method, rest, body)

    def _verb(self, kind: str, method: str) -> str:
        return "write" if kind == "v1" and method != "GET" else _VERBS[method]

    def _sources(self, method: str, rest: list[str], body: Any) -> tuple[int, Any]:
        held = self.held["datasources"]
        if method == "POST":
            if not {"name", "type", "access"} <= set(body):
                return 400, {"message": "bad request data"}
            if body["uid"] in held or any(s["name"] == body["name"] for s in held.values()):
                return 409, {"message": "data source with the same name already exists"}
            held[body["uid"]] = {**body, "id": len(held) + 1, "orgId": 1, "readOnly": False}
            return 200, {"id": 1, "message": "Datasource added"}
        return self._one(held, method, rest[1], body)

    def _folders(self, method: str, rest: list[str], body: Any) -> tuple[int, Any]:
        held = self.held["folders"]
        if method == "POST":
            held[body["uid"]] = {**body, "id": 1, "version": 1}
            return 200, held[body["uid"]]
        if method == "DELETE":
            held_boards = self.held["dashboards"]
            for uid in [u for u, b in held_boards.items() if b["folder"] == rest[0]]:
                del held_boards[uid]
        return self._one(held, method, rest[0], body)

    def _dashboards(self, method: str, rest: list[str], body: Any) -> tuple[int, Any]:
        held = self.held["dashboards"]
        if method == "POST":
            board = body["dashboard"]
            former = held.get(board["uid"])
            if body["folderUid"] not in self.held["folders"]:
                return 400, {"message": "folder not found"}
            if former and not body.get("overwrite"):
                return 412, {"message": "The dashboard has been changed", "status": "name-exists"}
            version = former["dashboard"]["version"] + 1 if former else 1
            kept = {**board, "id": 7, "version": version}
            held[board["uid"]] = {"dashboard": kept, "folder": body["folderUid"]}
            return 200, {"uid": board["uid"], "status": "success", "version": version}
        if rest[1] not in held:
            return 404, {"message": "Dashboard not found"}
        if method == "DELETE":
            return 200, {"title": held.pop(rest[1])["dashboard"]["title"]}
        found = held[rest[1]]
        return 200, {"dashboard": found["dashboard"], "meta": {"folderUid": found["folder"]}}

    def _contacts(self, method: str, rest: list[str], body: Any) -> tuple[int, Any]:
        held = self.held["v1"]
        if method == "GET":
            return 200, list(held.values())
        if method == "DELETE":
            return (202, {"message": "contactpoint deleted"}) if held.pop(rest[2]) else (404, {})
        if not body.get("settings"):
            return 400, {"message": "invalid object specification: settings should not be empty"}
        held[body["uid"]] = {**body, "provenance": "api"}
        return 202, held[body["uid"]]

    def _one(self, held: dict[str, Any], method: str, uid: str, body: Any) -> tuple[int, Any]:
        if uid not in held:
            return 404, {"message": "not found"}
        if method == "DELETE":
            return 200, {"message": "deleted", "title": held.pop(uid)}
        if method == "PUT":
            held[uid] = {**held[uid], **body}
        return 200, held[uid]


@contextmanager
def serving(grafana: Grafana) -> Iterator[Grafana]:
    """The server, in threads of its own."""

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length) or b"null")
            token = self.headers.get("authorization", "")
            status, answer = grafana.answer(self.command, self.path, token, body)
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PUT = do_DELETE = _do

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    grafana.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield grafana
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
