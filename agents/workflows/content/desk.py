"""The desk of `content`: its pieces, what they have had, and where they are published.

A slug belongs to the run that published it first. It is reserved before the world is asked, so that
of two runs one learns in time that it is the second; a run that died in between finds its own
reservation. Engagement is what a piece has had so far: a later figure takes the place of an earlier
one.
"""

import json
import threading
from pathlib import Path
from typing import Any, Final

from agents.desks import EFFECTS, Receipt, SqliteDesk
from agents.packs import DESK_FILE, FILES
from agents.workflows.content import services
from agents.workflows.content.brief import SITE
from agents.workflows.content.publishers import publisher
from agents.workflows.content.searching import suggested
from cluster.errors import Conflict, InvalidInput, NotFound
from cluster.ids import Clock

MOST_PIECES: Final = 50
"""What discovery tells of: the newest."""
_SCHEMA: Final = f"""{EFFECTS}
create table if not exists pieces(
  slug text primary key, key text not null, title text not null, topic text not null,
  leads text not null, url text not null default '', published_at real);
create table if not exists engagement(
  piece text not null references pieces(slug), channel text not null, views integer not null,
  clicks integer not null, at real not null, primary key(piece, channel));
"""


class ContentDesk(SqliteDesk):
    """See `agents.packs.Desk`."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        super().__init__(folder / DESK_FILE, clock, _SCHEMA)
        files = folder / FILES
        files.mkdir(parents=True, exist_ok=True)
        self._services = services.read(folder)
        self._publisher = publisher(self._services.publish, files)
        self._publishing = threading.Lock()

    def perform(self, tool: str, key: str, subject: str, args: dict[str, Any]) -> Receipt:
        match tool:
            case "discover":
                return self._discovered(subject)
            case "search":
                return self._searched(args)
            case "publish":
                return self._publish(key, subject, args)
            case "engage":
                return self.once(key, tool, subject, args, lambda: self._engaged(subject, args))
        raise InvalidInput("tool", tool, "discover, search, publish or engage")

    def _discovered(self, slug: str) -> Receipt:
        rows = self.all(
            "select * from pieces where published_at is not null "
            "order by published_at desc, rowid desc limit ?",
            MOST_PIECES,
        )
        taken = self.one("select 1 from pieces where slug = ? and published_at is not null", slug)
        return {
            "taken": taken is not None,
            "search": self._services.search is not None,
            "pieces": [self._piece(row) for row in rows],
        }

    def _piece(self, row: dict[str, Any]) -> dict[str, Any]:
        had = {
            e["channel"]: e
            for e in self.all("select * from engagement where piece = ?", row["slug"])
        }
        return {
            "slug": row["slug"], "title": row["title"], "topic": row["topic"], "url": row["url"],
            "channels": {
                channel: {
                    "lead": lead,
                    "views": had[channel]["views"] if channel in had else 0,
                    "clicks": had[channel]["clicks"] if channel in had else 0,
                }
                for channel, lead in json.loads(row["leads"]).items()
            },
        }  # fmt: skip

    def _searched(self, args: dict[str, Any]) -> Receipt:
        if self._services.search is None:
            raise NotFound("search service in", services.FILE)
        return suggested(self._services.search, str(args["topic"]), str(args["audience"]))

    def _publish(self, key: str, slug: str, args: dict[str, Any]) -> Receipt:
        told: Receipt = {}
        # One at a time: a call that nobody waits for any more may still be under way.
        with self._publishing:
            if self.find(key) is None:
                self._reserve(key, slug, args["piece"])
                try:
                    # Outside of the transaction: the world may take its time.
                    told = self._publisher.publish(key, args["piece"])
                except (Conflict, InvalidInput):
                    self._release(key, slug)
                    raise
            return self.once(key, "publish", slug, args, lambda: self._published(slug, told))

    def _reserve(self, key: str, slug: str, piece: dict[str, Any]) -> None:
        leads = {SITE: piece["sections"][0]["heading"].lower(), **piece["leads"]}
        with self.transaction() as db:
            db.execute(
                "insert into pieces(slug, key, title, topic, leads) values (?,?,?,?,?) "
                "on conflict(slug) do nothing",
                (slug, key, piece["title"], piece["topic"], json.dumps(leads)),
            )
            owner = db.execute("select key from pieces where slug = ?", (slug,)).fetchone()
        if owner["key"] != key:
            raise Conflict(f"piece {slug}", "another run has published it, or is about to")

    def _release(self, key: str, slug: str) -> None:
        with self.transaction() as db:
            db.execute(
                "delete from pieces where slug = ? and key = ? and published_at is null",
                (slug, key),
            )

    def _published(self, slug: str, told: Receipt) -> Receipt:
        self._db.execute(
            "update pieces set published_at = ?, url = ? where slug = ?",
            (self._clock.now(), told["url"], slug),
        )
        return {"slug": slug, **told}

    def _engaged(self, slug: str, args: dict[str, Any]) -> Receipt:
        piece = self.one("select * from pieces where slug = ? and published_at is not null", slug)
        if piece is None:
            raise NotFound("published piece", slug)
        known = json.loads(piece["leads"])
        if args["channel"] not in known:
            expected = f"one of the piece's own: {', '.join(known)}"
            raise InvalidInput("channel", args["channel"], expected)
        if not 0 <= args["clicks"] <= args["views"]:
            raise InvalidInput("clicks", args["clicks"], f"0 to the {args['views']} views")
        row = (slug, args["channel"], args["views"], args["clicks"], self._clock.now())
        self._db.execute("insert or replace into engagement values (?,?,?,?,?)", row)
        return {"slug": slug, "channel": args["channel"], "lead": known[args["channel"]],
                "views": args["views"], "clicks": args["clicks"]}  # fmt: skip
