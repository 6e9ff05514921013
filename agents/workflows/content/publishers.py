"""Where pieces go: a folder, a Git repository, WordPress.

`publish` may be asked again for a piece that it has published already, when nobody has heard its
answer: the same key gives the same receipt, and a slug that is somebody else's a Conflict.
"""

import os
import re
import subprocess
from pathlib import Path
from typing import Any, Final, Protocol

from agents.workflows.content.article import Piece, markdown
from agents.workflows.content.services import ToFolder, ToGit, ToWordPress
from agents.workflows.content.wordpress import WordPress
from cluster.errors import Conflict, Unavailable

PUBLISHED: Final = "published"
_KEY: Final = re.compile(r"^<!-- mainspring (\w+) -->$", re.MULTILINE)
_GIT_S: Final = 8.0


class Publisher(Protocol):
    def publish(self, key: str, piece: Piece) -> dict[str, Any]:
        """Where it is now: `where` for people, `url` for links, and what else the place says.
        Conflict when it can't be done; Unavailable when nobody knows whether it was."""


def publisher(part: ToFolder | ToGit | ToWordPress, files: Path) -> Publisher:
    """The one that the settings name; `files` is the desk's own folder."""
    if isinstance(part, ToWordPress):
        return WordPress(part)
    if isinstance(part, ToGit):
        return Git(part)
    return Folder(files / PUBLISHED, part.site)


class Folder:
    """SLUG.md, and SLUG.CHANNEL.txt for each post."""

    def __init__(self, folder: Path, site: str = "") -> None:
        self._folder, self._site = folder, site.rstrip("/")

    def publish(self, key: str, piece: Piece) -> dict[str, Any]:
        paths = write(self._folder, key, piece)
        return {"where": str(paths[0]), "url": f"{self._site}/{piece['slug']}"}


def write(folder: Path, key: str, piece: Piece) -> list[Path]:
    """The files of a piece, each whole or not at all, the article first. Conflict when one of this
    name is not this piece's."""
    folder.mkdir(parents=True, exist_ok=True)
    article = folder / f"{piece['slug']}.md"
    if article.exists():
        found = _KEY.findall(article.read_text("utf-8", "replace"))
        if found[-1:] != [key]:
            raise Conflict(f"piece {piece['slug']}", f"{article.name} is there already")
    texts = {folder / f"{piece['slug']}.{c}.txt": f"{post}\n" for c, post in piece["posts"].items()}
    # The article comes last: what is there is whole.
    for path, text in {**texts, article: f"{markdown(piece)}\n<!-- mainspring {key} -->\n"}.items():
        new = path.with_suffix(f"{path.suffix}.new")
        with new.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    return [article, *texts]


class Git:
    """A commit for each piece in a clone, pushed if the settings say so."""

    def __init__(self, part: ToGit) -> None:
        self._part, self._clone = part, Path(part.repository).expanduser()

    def publish(self, key: str, piece: Piece) -> dict[str, Any]:
        commit = self._commit(key)
        if not commit:
            paths = write(self._clone / self._part.folder, key, piece)
            names = [str(path.relative_to(self._clone)) for path in paths]
            self._git("add", "--", *names)
            said = f"Publish {piece['slug']}\n\nMainspring-Key: {key}"
            self._git("commit", "--quiet", "-m", said, "--", *names)
            commit = self._commit(key)
        if self._part.push:
            self._pushed()
        url = f"{self._part.site.rstrip('/')}/{piece['slug']}"
        return {"where": f"commit {commit[:12]}", "url": url, "commit": commit}

    def _commit(self, key: str) -> str:
        """The commit that was made under `key`, or ""."""
        if not (self._clone / ".git").exists():
            raise Conflict("content.yaml", f"{self._clone} is no clone of a Git repository")
        grep = ("--fixed-strings", f"--grep=Mainspring-Key: {key}", "--format=%H", "-1")
        return self._git("log", "--all", *grep, broken_is="")

    def _pushed(self) -> None:
        try:
            self._git("push", "--quiet")
        except Conflict as error:
            raise Unavailable("git push", error.reason) from None

    def _git(self, *args: str, broken_is: str | None = None) -> str:
        named = ("-c", "user.name=Mainspring", "-c", "user.email=mainspring@localhost")
        try:
            done = subprocess.run(
                ["git", "-C", str(self._clone), *named, *args], capture_output=True, text=True,
                check=False, timeout=_GIT_S, env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
            )  # fmt: skip
        except FileNotFoundError:
            raise Conflict("git", "it is not installed") from None
        except subprocess.TimeoutExpired:
            raise Unavailable(f"git {args[0]}", f"no answer within {_GIT_S:g} s") from None
        if done.returncode == 0:
            return done.stdout.strip()
        if broken_is is not None:
            return broken_is
        raise Conflict(f"git {args[0]}", (done.stderr or done.stdout).strip()[-300:])
