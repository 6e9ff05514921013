"""WordPress and search services on this machine, for tests, in the forms of the real ones."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import uvicorn
from mcp.server import MCPServer

POSTS = "/wp-json/wp/v2/posts"
PASSWORD = "abcd EFGH 1234"


class Site:
    """A site's posts as WordPress keeps and shows them; `lost` answers are made and never heard,
    `status` other than 0 is what everything is answered with, each after `slow_s` seconds."""

    def __init__(self) -> None:
        self.posts: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.lost = 0
        self.status = 0
        self.slow_s = 0.0
        self.chat: Any = {"topics": ["Light for small rooms"], "channels": ["newsletter", "fax"]}

    def answer(self, method: str, path: str, headers: Any, body: str) -> tuple[int, Any]:
        where = urlsplit(path)
        self.asked.append(f"{method} {where.path}")
        time.sleep(self.slow_s)
        if self.status:
            return self.status, {"code": "rest_error", "message": "no"}
        if where.path == "/v1/chat/completions":
            return self._chatted(headers, json.loads(body))
        expected = base64.b64encode(f"anna:{PASSWORD}".encode()).decode()
        if headers["Authorization"] != f"Basic {expected}":
            return 401, {"code": "rest_cannot_create", "message": "Sorry, you are not allowed"}
        if method == "GET":
            query = parse_qs(where.query)
            assert query["status"] == ["any"] and query["context"] == ["edit"]
            return 200, [p for p in self.posts if [p["slug"]] == query["slug"]]
        asked = json.loads(body)
        post = {
            "id": len(self.posts) + 17, "slug": asked["slug"], "status": asked["status"],
            "link": f"https://example.com/{asked['slug']}/",
            "title": {"raw": asked["title"], "rendered": asked["title"]},
            "excerpt": {"raw": asked["excerpt"]}, "content": {"raw": asked["content"]},
        }  # fmt: skip
        self.posts.append(post)
        if self.lost:
            self.lost -= 1
            return 0, None
        return 201, post

    def _chatted(self, headers: Any, asked: dict[str, Any]) -> tuple[int, Any]:
        if headers["Authorization"] != "Bearer sk-1":
            return 401, {"error": {"message": "Authentication Fails"}}
        assert asked["model"] == "deepseek-chat" and "oak lamp" in asked["messages"][1]["content"]
        content = self.chat if isinstance(self.chat, str) else json.dumps(self.chat)
        return 200, {"choices": [{"message": {"role": "assistant", "content": content}}]}


@contextmanager
def serving(site: Site) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            size = int(self.headers.get("content-length", 0))
            body = self.rfile.read(size).decode()
            status, told = site.answer(self.command, self.path, self.headers, body)
            if not status:
                return
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(told).encode())

        do_GET = do_POST = _answer

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def mcp_search() -> Iterator[str]:
    """An MCP server with one tool, over HTTP."""
    server = MCPServer("search")

    @server.tool()
    def trends(query: str) -> str:
        """What people read."""
        return f"on {query}\nRead it on linkedin"

    config = uvicorn.Config(server.streamable_http_app(), port=0, log_level="error")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        thread.join(0.02)
    port = running.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        running.should_exit = True
        thread.join(10)
