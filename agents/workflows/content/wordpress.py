"""WordPress' REST API, with an application password.

Before a post is made, its slug is looked up: one that carries our key was made by an earlier call
whose answer nobody heard, any other is somebody else's.
"""

from typing import Any, Final

import httpx

from agents.workflows.content.article import Piece, as_html
from agents.workflows.content.services import ToWordPress, secret
from cluster.errors import Conflict, Unavailable

_POSTS: Final = "/wp-json/wp/v2/posts"
_SHOWN: Final = 200


class WordPress:
    """See `agents.workflows.content.publishers.Publisher`."""

    def __init__(self, part: ToWordPress) -> None:
        self._part = part

    def publish(self, key: str, piece: Piece) -> dict[str, Any]:
        auth = (self._part.user, secret(self._part.password))
        mark = f"<!-- mainspring {key} -->"
        with httpx.Client(
            base_url=self._part.url.rstrip("/"), auth=auth, timeout=self._part.timeout_s,
            trust_env=False,
        ) as client:  # fmt: skip
            post = self._known(client, piece["slug"], mark)
            if post is None:
                post = self._asked(
                    client, "POST",
                    json={
                        "title": piece["title"], "slug": piece["slug"], "status": self._part.status,
                        "excerpt": piece["description"], "content": f"{as_html(piece)}\n{mark}",
                    },
                )  # fmt: skip
        if not isinstance(post, dict) or "id" not in post:
            raise Unavailable("WordPress", "it answered what is no post")
        url = str(post.get("link", ""))
        return {"where": url or f"post {post['id']}", "url": url, "post": post["id"]}

    def _known(self, client: httpx.Client, slug: str, mark: str) -> dict[str, Any] | None:
        """The post that was made under our mark; None when the slug is free."""
        params = {"slug": slug, "status": "any", "context": "edit"}
        found = self._asked(client, "GET", params=params)
        if not isinstance(found, list):
            raise Unavailable("WordPress", "it answered what is no list of posts")
        for post in found:
            if mark in str(post.get("content", {}).get("raw", "")):
                return dict(post)
        if found:
            raise Conflict(f"piece {slug}", "WordPress has another post under this slug")
        return None

    def _asked(self, client: httpx.Client, method: str, **given: Any) -> Any:
        try:
            answer = client.request(method, _POSTS, **given)
        except httpx.HTTPError as error:
            raise Unavailable("WordPress", f"{type(error).__name__}") from None
        if answer.status_code >= 500 or answer.status_code == 429:
            raise Unavailable("WordPress", f"HTTP {answer.status_code}")
        if answer.status_code >= 300:
            raise Conflict("WordPress", f"HTTP {answer.status_code}: {answer.text[:_SHOWN]}")
        try:
            return answer.json()
        except ValueError:
            raise Unavailable("WordPress", "it answered what is no JSON") from None
