"""What the desk of `content` may reach, as DATA_DIR/packs/content/content.yaml says.

publish:                       # without this part: the folder files/published there
  to: git                      # or folder, or wordpress
  repository: /srv/site        # git: a clone; pieces go to its `folder`
  folder: posts
  push: true
  site: https://example.com    # what an address of a piece begins with
search:                        # without this part: only the desk's own pieces
  kind: openai                 # or mcp, with `tool` instead of `model`
  url: https://api.deepseek.com/v1
  model: deepseek-chat
  key: DEEPSEEK_API_KEY        # the NAME of the environment variable that holds it

WordPress takes `url`, `user` and `password`, the name of the variable with an application password.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster.errors import ConfigError, Conflict

FILE: Final = "content.yaml"
_Variable = Annotated[str, Field(pattern=r"[A-Z_][A-Z0-9_]*")]
_Url = Annotated[str, Field(pattern=r"https?://\S+")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ToFolder(_Part):
    to: Literal["folder"] = "folder"
    site: str = ""


class ToGit(_Part):
    to: Literal["git"]
    repository: str
    folder: str = Field("posts", pattern=r"[\w-]+(/[\w-]+)*")
    push: bool = False
    site: str = ""


class ToWordPress(_Part):
    to: Literal["wordpress"]
    url: _Url
    user: str
    password: _Variable
    status: Literal["publish", "draft", "pending", "private"] = "publish"
    timeout_s: float = Field(8.0, gt=0, le=60)


class OpenAISearch(_Part):
    kind: Literal["openai"]
    url: _Url
    model: str
    key: _Variable
    timeout_s: float = Field(8.0, gt=0, le=60)


class McpSearch(_Part):
    kind: Literal["mcp"]
    url: _Url
    tool: str
    argument: str = "query"
    key: _Variable | None = None
    timeout_s: float = Field(8.0, gt=0, le=60)


class Services(_Part):
    publish: Annotated[ToFolder | ToGit | ToWordPress, Field(discriminator="to")] = ToFolder()
    search: Annotated[OpenAISearch | McpSearch, Field(discriminator="kind")] | None = None


def read(folder: Path) -> Services:
    """What the file in `folder` says; the defaults without one. ConfigError that names the first
    thing wrong."""
    file = folder / FILE
    if not file.exists():
        return Services()
    try:
        return Services.model_validate(yaml.safe_load(file.read_text("utf-8")) or {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(str(file), "...", f"readable YAML ({error})") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or FILE
        raise ConfigError(f"{file}: {where}", first["input"], first["msg"]) from None


def secret(variable: str, env: Mapping[str, str] | None = None) -> str:
    """What the environment variable holds. Conflict without one: nothing was done."""
    found = (os.environ if env is None else env).get(variable, "")
    if not found:
        raise Conflict(FILE, f"the environment has no {variable}")
    return found
