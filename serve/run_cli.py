"""`mainspring run`: begin a run of a workflow on the running stack, and follow it to its end."""

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any, Final

import typer
import yaml
from rich.console import Console

from cluster.errors import InvalidInput
from cluster.settings import load
from serve.bulk.runs import DECLINED
from serve.mcp_cli import KEY_VARIABLE

console = Console(highlight=False, soft_wrap=True)
NOT_DONE: Final = 1
NOT_ENDED: Final = 3
_MOST_BYTES: Final = 4_000_000
_FENCE: Final = "---"


def run(
    workflow: str = typer.Argument(..., help="Its name, as in the settings' agents.packs."),
    input: Path | None = typer.Option(None, help="What it is given, as YAML or JSON."),
    brief: Path | None = typer.Option(
        None, help="The same as Markdown: a YAML head with the fields, and the text below."
    ),
    set: list[str] = typer.Option([], help="A field of it, as name=value; as often as needed."),
    key: str = typer.Option("", help="The same key is the same run."),
    wait: bool = typer.Option(True, help="Follow the run to its end."),
    timeout: float = typer.Option(600.0, min=0.0, help="Stop following after so many seconds."),
    as_json: bool = typer.Option(False, "--json", help="Print the run as JSON, and nothing else."),
    url: str = typer.Option("", help="The stack's address; default: the one that runs here."),
    profile: str | None = typer.Option(
        None, "--profile", help="A profile's name or file; default: local."
    ),
) -> None:
    """Have a workflow done: content, shop, or one of your own. Exit status 1 when it was not done,
    3 when it has not ended. The key is read from MAINSPRING_API_KEY."""
    given = {**_file(input), **_brief(brief), **fields(set)}
    address = url or address_of(profile)
    ended = asyncio.run(_run(address, workflow, given, key, timeout if wait else 0.0, as_json))
    if ended["status"] != "ended":
        raise typer.Exit(0 if not wait else NOT_ENDED)
    if ended["decision"] in DECLINED:
        raise typer.Exit(NOT_DONE)


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(run)


async def _run(
    address: str, workflow: str, given: dict[str, Any], key: str, timeout_s: float, as_json: bool
) -> dict[str, Any]:
    from serve.client import Client

    began = time.monotonic()
    async with Client(address, os.environ.get(KEY_VARIABLE, "")) as client:
        begun = await client.begin(workflow, given, key=key)
        if not as_json:
            console.print(f"run {begun['id']}", markup=False)
        if timeout_s > 0:
            async for event in client.follow(begun["id"], timeout_s):
                if not as_json and (line := told(event)):
                    console.print(f"{time.monotonic() - began:7.1f} s  {line}", markup=False)
        ended = await client.run(begun["id"])
    if as_json:
        console.print_json(json.dumps(ended))
    elif ended["status"] == "ended":
        _show(ended)
    elif timeout_s > 0:
        console.print(f"not ended after {timeout_s:g} s; mainspring runs follow {begun['id']}")
    return ended


def told(event: dict[str, Any]) -> str:
    """PURE: an event of a run as a line for people; "" for one that says nothing to them."""
    payload = event["payload"]
    kind, step = payload["kind"], payload.get("step", "")
    if kind == "phase_done":
        return f"{payload['phase']} done in {payload['seconds']:.1f} s"
    if kind == "step_decided":
        cut = f", cut to {payload['changed']}" if payload.get("changed") else ""
        return f"{step}: {payload['answer']} [{payload['rule']}] {payload['reason']}{cut}"
    if kind == "effect_failed":
        return f"{step}: refused: {payload['reason']}"
    if kind == "effect_parked":
        return f"{step}: nobody knows whether it was done: mainspring runs resolve"
    if kind == "approval_asked":
        return f"a person is asked: mainspring approvals show {payload['approval']}"
    if kind == "approval_answered":
        return f"{payload['by']} said {'yes' if payload['approved'] else 'no'}"
    if kind == "wait_begun" and payload["awaited"] != "approval":
        many = f" ({len(payload['runs'])})" if payload.get("runs") else ""
        return f"waits for {payload.get('signal') or payload['awaited']}{many}"
    return f"broken: {payload['reason']}" if kind == "turn_failed" else ""


def _show(ended: dict[str, Any]) -> None:
    result = dict(ended["result"] or {})
    usage = result.pop("usage", [])
    tokens = sum(u.get("prompt_tokens", 0) + u.get("completion_tokens", 0) for u in usage)
    usd = sum(u.get("cost_usd", 0.0) for u in usage)
    console.print(f"{ended['decision']}: {ended['reason']}", markup=False)
    if result:
        shown = yaml.safe_dump(result, sort_keys=False, allow_unicode=True, width=100)
        console.print(shown.rstrip(), markup=False)
    console.print(f"{len(usage)} model calls, {tokens} tokens, ${usd:.6f}")


def address_of(profile: str | None) -> str:
    """Where the stack of this data folder answers, or would."""
    from serve.running import find

    settings = load(profile)
    running = find(settings.data_dir)
    return running.url if running is not None and running.url else settings.gateway.url


def _file(path: Path | None) -> dict[str, Any]:
    return {} if path is None else _object("input", path, _text("input", path))


def _brief(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    text = _text("brief", path).lstrip("\ufeff")
    head: dict[str, Any] = {}
    first, _, rest = text.partition("\n")
    if first.strip() == _FENCE:
        above, found, text = rest.partition(f"\n{_FENCE}")
        if not found:
            raise InvalidInput("brief", str(path), f"a head that ends with a line {_FENCE}")
        head = _object("brief", path, above)
        text = text.partition("\n")[2]
    return {**head, "text": text.strip()}


def fields(given: list[str]) -> dict[str, Any]:
    """PURE: `name=value` as fields, values read as YAML. InvalidInput for what is none."""
    fields: dict[str, Any] = {}
    for word in given:
        name, found, value = word.partition("=")
        if not found or not name:
            raise InvalidInput("set", word, "name=value")
        try:
            fields[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            fields[name] = value
    return fields


def _text(field: str, path: Path) -> str:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InvalidInput(field, str(path), f"a file of at most {_MOST_BYTES} bytes")
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(field, str(path), f"a readable UTF-8 text ({error})") from None


def _object(field: str, path: Path, text: str) -> dict[str, Any]:
    try:
        found = yaml.safe_load(text) if text.strip() else {}
        # What YAML takes for a date goes over the wire as it was written.
        plain = json.loads(json.dumps(found, default=str))
    except (yaml.YAMLError, ValueError) as error:
        raise InvalidInput(field, str(path), f"YAML or JSON ({error})") from None
    if not isinstance(plain, dict):
        raise InvalidInput(field, str(path), "fields with values")
    return plain
