"""WordPress, Git and a search service, each against one of their forms on this machine."""

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents.workflows.content.desk import ContentDesk
from agents.workflows.content.services import FILE
from cluster.errors import ConfigError, Conflict, Unavailable
from tests.content import BRIEF, Newsroom
from tests.fakes import FakeClock
from tests.sites import PASSWORD, POSTS, Site, mcp_search, serving

pytestmark = pytest.mark.enable_socket
SLUG = "the-new-oak-lamp"
PIECE: dict[str, Any] = {
    "slug": "a", "topic": "a", "title": "A", "description": "",
    "sections": [{"heading": "Price", "passages": []}],
    "sources": [], "related": [], "posts": {}, "leads": {},
}  # fmt: skip


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def room(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Newsroom]:
    """A newsroom whose environment has the keys; `_named` says what it is connected to."""
    monkeypatch.setenv("WP_PASSWORD", PASSWORD)
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk-1")
    yield Newsroom(tmp_path)


def _named(room: Newsroom, **services: Any) -> Path:
    file = room.folder / "packs" / "content" / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(services), "utf-8")
    return file


def _wordpress(url: str, **changes: Any) -> dict[str, Any]:
    return {"to": "wordpress", "url": url, "user": "anna", "password": "WP_PASSWORD", **changes}


async def test_a_piece_goes_to_wordpress(room: Newsroom, site: Site) -> None:
    with serving(site) as url:
        _named(room, publish=_wordpress(url))
        run = await room.run(BRIEF)
    assert run.ended[0] == "published"
    assert run.result["published"]["url"] == f"https://example.com/{SLUG}/"
    (post,) = site.posts
    assert (post["slug"], post["status"]) == (SLUG, "publish")
    assert "<h2>Price</h2>" in post["content"]["raw"]
    assert site.asked == [f"GET {POSTS}", f"POST {POSTS}"]


async def test_an_answer_that_nobody_heard_makes_no_second_post(room: Newsroom, site: Site) -> None:
    site.lost = 1
    with serving(site) as url:
        _named(room, publish=_wordpress(url))
        office = room.office(BRIEF)
        with pytest.raises(Unavailable):
            await office.work(room.parts)
        assert len(site.posts) == 1
        assert await office.work(room.parts)
    assert office.ended[0] == "published" and len(site.posts) == 1
    assert office.result["published"]["post"] == 17


async def test_killed_at_any_border_wordpress_has_one_post(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WP_PASSWORD", PASSWORD)
    killed, number = True, 0
    while killed:
        site, room = Site(), Newsroom(tmp_path / str(number))
        with serving(site) as url:
            _named(room, publish=_wordpress(url))
            office = room.office(BRIEF)
            killed = await office.worked_through(room.parts, number)
        assert office.ended[0] == "published" and len(site.posts) == 1
        number += 1
    assert number > 15


def test_a_call_beside_one_that_is_under_way_makes_no_second_post(
    room: Newsroom, site: Site
) -> None:
    site.slow_s = 0.2
    with serving(site) as url:
        file = _named(room, publish=_wordpress(url))
        desk = ContentDesk(file.parent, FakeClock())
        with ThreadPoolExecutor(3) as threads:
            asked = [
                threads.submit(desk.perform, "publish", "k1", "a", {"piece": PIECE})
                for _ in range(3)
            ]
            receipts = [one.result() for one in asked]
    assert len(site.posts) == 1
    assert sorted(receipt["repeated"] for receipt in receipts) == [False, True, True]


async def test_another_s_slug_is_left_alone_and_free_again_here(room: Newsroom, site: Site) -> None:
    site.posts = [{"id": 3, "slug": SLUG, "content": {"raw": "mine"}}]
    with serving(site) as url:
        _named(room, publish=_wordpress(url))
        run = await room.run(BRIEF)
        assert run.ended[0] == "refused" and "another post" in run.ended[1]
        site.posts.clear()
        assert (await room.run(BRIEF)).ended[0] == "published"


async def test_wordpress_that_refuses_or_is_away(room: Newsroom, site: Site) -> None:
    with serving(site) as url:
        _named(room, publish=_wordpress(url, user="eve"))
        run = await room.run(BRIEF)
        assert run.ended[0] == "refused" and "HTTP 401" in run.ended[1]
        site.status = 503
        with pytest.raises(Unavailable):
            await room.run({**BRIEF, "subject": "second"})
    with pytest.raises(Unavailable):
        await room.run({**BRIEF, "subject": "third"})
    _named(room, publish=_wordpress(url, password="NOT_SET"))
    run = await room.run({**BRIEF, "subject": "fourth"})
    assert run.ended[0] == "refused" and "NOT_SET" in run.ended[1]


def _git(folder: Path, *args: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *args], capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout.strip()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with a remote, and a change in it that nobody has committed."""
    (tmp_path / "far").mkdir()
    _git(tmp_path, "init", "-q", "--bare", "-b", "main", "far")
    _git(tmp_path, "clone", "-q", "far", "near")
    near = tmp_path / "near"
    _git(near, "checkout", "-q", "-b", "main")
    (near / "own.txt").write_text("mine", "utf-8")
    _git(near, "add", "own.txt")
    return near


async def test_a_piece_is_one_commit_that_is_pushed(
    room: Newsroom, clone: Path, tmp_path: Path
) -> None:
    _git(clone, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "one")
    _git(clone, "push", "-q", "-u", "origin", "main")
    (clone / "own.txt").write_text("changed", "utf-8")
    site = "https://example.com"
    _named(room, publish={"to": "git", "repository": str(clone), "push": True, "site": site})
    run = await room.run({**BRIEF, "channels": ["x"]})
    assert run.ended[0] == "published" and run.result["published"]["url"] == f"{site}/{SLUG}"
    assert _git(tmp_path / "far", "log", "--format=%s", "main").splitlines() == [
        f"Publish {SLUG}", "one",
    ]  # fmt: skip
    files = _git(clone, "show", "--name-only", "--format=", "HEAD").splitlines()
    assert files == [f"posts/{SLUG}.md", f"posts/{SLUG}.x.txt"]
    assert _git(clone, "status", "--short") == "M own.txt"


async def test_killed_at_any_border_git_has_one_commit(tmp_path: Path) -> None:
    killed, number = True, 0
    while killed:
        room = Newsroom(tmp_path / str(number))
        clone = tmp_path / f"clone-{number}"
        _git(tmp_path, "init", "-q", clone.name)
        _named(room, publish={"to": "git", "repository": str(clone)})
        office = room.office(BRIEF)
        killed = await office.worked_through(room.parts, number)
        assert office.ended[0] == "published"
        assert _git(clone, "log", "--format=%s") == f"Publish {SLUG}"
        number += 1
    assert number > 15


async def test_a_push_that_fails_is_tried_again_with_the_same_commit(
    room: Newsroom, clone: Path, tmp_path: Path
) -> None:
    far = tmp_path / "far"
    far.rename(tmp_path / "away")
    _named(room, publish={"to": "git", "repository": str(clone), "push": True})
    _git(clone, "config", "push.autoSetupRemote", "true")
    office = room.office(BRIEF)
    with pytest.raises(Unavailable):
        await office.work(room.parts)
    (tmp_path / "away").rename(far)
    assert await office.work(room.parts)
    assert _git(far, "log", "--format=%s", "main") == f"Publish {SLUG}"


async def test_a_folder_that_is_no_clone_is_named(room: Newsroom, tmp_path: Path) -> None:
    _named(room, publish={"to": "git", "repository": str(tmp_path / "none")})
    run = await room.run(BRIEF)
    assert run.ended[0] == "refused" and "no clone" in run.ended[1]


async def test_a_search_service_suggests_and_states_no_facts(room: Newsroom, site: Site) -> None:
    search = {"kind": "openai", "model": "deepseek-chat", "key": "DEEPSEEK_API_KEY"}
    with serving(site) as url:
        _named(room, search={**search, "url": f"{url}/v1"})
        run = await room.run(BRIEF)
    assert run.ended[0] == "published"
    assert run.result["ideas"]["topics"] == ["Light for small rooms"]
    assert run.result["plan"]["channels"][0]["name"] == "newsletter"
    assert "suggested" in run.result["plan"]["channels"][0]["reason"]
    assert "small rooms" not in run.result["article"]
    assert str(run.state.labels["search"]) == "untrusted/personal"


@pytest.mark.parametrize(
    ("status", "chat", "why"),
    [(503, {}, "HTTP 503"), (401, {}, "HTTP 401"), (0, "7", "neither JSON nor lines")],
)
async def test_a_search_service_that_fails_is_done_without(
    room: Newsroom, site: Site, status: int, chat: Any, why: str
) -> None:
    site.status, site.chat = status, chat
    search = {"kind": "openai", "model": "deepseek-chat", "key": "DEEPSEEK_API_KEY"}
    with serving(site) as url:
        _named(room, search={**search, "url": f"{url}/v1"})
        run = await room.run(BRIEF)
    assert run.ended[0] == "published"
    assert why in run.result["ideas"]["problem"]


async def test_a_tool_of_an_mcp_server_suggests(room: Newsroom) -> None:
    with mcp_search() as url:
        _named(room, search={"kind": "mcp", "url": url, "tool": "trends"})
        run = await room.run(BRIEF)
        assert run.result["ideas"] == {
            "kind": "search", "topics": ["on the new oak lamp", "Read it on linkedin"],
            "channels": ["linkedin"],
        }  # fmt: skip
        _named(room, search={"kind": "mcp", "url": url, "tool": "nothing"})
        assert (await room.run({**BRIEF, "subject": "b"})).result["ideas"]["problem"]
    assert (
        "search service" in (await room.run({**BRIEF, "subject": "c"})).result["ideas"]["problem"]
    )


@pytest.mark.parametrize(
    ("services", "named"),
    [
        ({"publish": {"to": "ftp"}}, "publish"),
        ({"publish": {"to": "git"}}, "repository"),
        ({"publish": _wordpress("ftp://x")}, "url"),
        ({"publish": _wordpress("http://x", password="abcd efgh")}, "password"),
        ({"search": {"kind": "openai", "url": "http://x", "model": "m"}}, "key"),
        ({"colour": 1}, "colour"),
    ],
)
def test_a_wrong_setting_is_named(room: Newsroom, services: Any, named: str) -> None:
    file = _named(room, **services)
    with pytest.raises(ConfigError) as caught:
        ContentDesk(file.parent, FakeClock())
    assert named in caught.value.name


async def test_a_file_that_is_there_already_is_left_alone(room: Newsroom) -> None:
    folder = room.files / "published"
    folder.mkdir(parents=True)
    (folder / f"{SLUG}.md").write_text("mine", "utf-8")
    run = await room.run(BRIEF)
    assert run.ended[0] == "refused" and "is there already" in run.ended[1]
    assert (folder / f"{SLUG}.md").read_text("utf-8") == "mine"


def test_the_same_key_with_another_piece_is_a_conflict(tmp_path: Path) -> None:
    desk = ContentDesk(tmp_path, FakeClock())
    first = desk.perform("publish", "k1", "a", {"piece": PIECE})
    assert desk.perform("publish", "k1", "a", {"piece": PIECE}) == first | {"repeated": True}
    with pytest.raises(Conflict):
        desk.perform("publish", "k1", "a", {"piece": {**PIECE, "title": "B"}})
