"""The command line. Each command reads the settings once and imports what it needs."""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from cluster.errors import MainspringError
from cluster.settings import Settings, load
from serve import (
    audit_cli,
    cluster_cli,
    governance_cli,
    keys_cli,
    lists_cli,
    mcp_cli,
    models_cli,
    new_cli,
    operator_cli,
    pseudonyms_cli,
    report,
    router_cli,
    run_cli,
    tickets_cli,
    tools_cli,
    upkeep_cli,
)
from serve.batch_cli import batch
from serve.distill.cli import distill
from serve.memory_cli import memory

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Mainspring: models, agents, memory and policy behind one address.",
)
intents = typer.Typer(no_args_is_help=True, help="The intent head on the embeddings.")
app.add_typer(intents, name="intents")
app.add_typer(memory, name="memory")
app.add_typer(distill, name="distill")
app.add_typer(batch, name="batch")
app.add_typer(new_cli.new, name="new")
app.add_typer(models_cli.models, name="models")
app.add_typer(tickets_cli.tickets, name="tickets")

console = Console(highlight=False, soft_wrap=True)
PROFILE = typer.Option(None, "--profile", help="A profile's name or file; default: local.")


def main() -> None:
    """Run the command line; our own errors are one line on stderr and exit status 1."""
    try:
        app()
    except MainspringError as error:
        print(f"mainspring: {error}", file=sys.stderr)
        sys.exit(1)


@app.command()
def up(profile: str | None = PROFILE) -> None:
    """Start the stack and keep serving until Ctrl-C."""
    from serve import lifecycle

    settings = load(profile)
    stack_of = lifecycle.running_stack(settings, settings.data_dir, lambda: _heads(settings), _say)
    with _interruptible(), stack_of as stack:
        _say(f"serving at {stack.url}/v1 (ready in {stack.phases['total']:.0f} s)")
        _say(f"console at {stack.url}/console")
        lifecycle.serve_on(stack, settings.data_dir, lambda: load(profile), _say)


@app.command()
def demo(
    profile: str | None = PROFILE,
    data: Path | None = typer.Option(
        None, help="A folder with Banking77: triage its test questions instead."
    ),
    tickets: int = typer.Option(100, help="With --data: how many questions."),
    seed: int = typer.Option(7, help="With --data: which questions are drawn."),
    report: Path | None = typer.Option(None, help="Write everything as JSON to this file."),
    exit: bool = typer.Option(False, "--exit", help="Stop the stack afterwards."),
) -> None:
    """Work a queue of support tickets and show what happened and what it cost."""
    from serve import demo as demos
    from serve import lifecycle

    settings = load(profile)
    queue = demos.shipped_queue(settings)
    if data is not None:
        queue = demos.banking_queue(data, tickets, seed)
    own = demos.own_settings(settings)

    def heads() -> dict[str, Path]:
        if demos.clear_unless_unfinished(own, queue):
            _say("taking up the queue that was left unfinished")
        return _heads(settings) | _trained(settings, queue)

    stack_of = lifecycle.running_stack(own, settings.data_dir, heads, _say)
    with _interruptible(), stack_of as stack:
        written, asked = asyncio.run(_work(stack, queue, own, not exit))
        if report is not None:
            report.write_text(json.dumps(written, indent=1), encoding="utf-8")
            _say(f"report written to {report}")
        demos.finished(own)
        if not exit:
            _show_approval(asked, own)
            _show_addresses(stack)
            home = settings.data_dir
            lifecycle.serve_on(stack, home, lambda: demos.own_settings(load(profile)), _say)


@app.command()
def doctor(profile: str | None = PROFILE) -> None:
    """Show what this machine has, and what is missing. Exit status 1 when something is."""
    from serve.doctor import examine

    lines = examine(load(profile))
    table = Table("", "what", "found", box=None)
    for line in lines:
        table.add_row(line.level, line.what, line.found)
    console.print(table)
    if any(line.level == "missing" for line in lines):
        raise typer.Exit(1)


@intents.command("train")
def intents_train(
    source: Path = typer.Option(..., "--from", help="JSONL (text, intent) or CSV (text, category)"),
    out: Path = typer.Option(..., help="Folder for the head and its metrics."),
    seed: int = typer.Option(0),
    made: int = typer.Option(0, help="Learn from this many made shop tickets an intent as well."),
) -> None:
    """Train an intent head from labelled examples and store it with its metrics."""
    from serve.distill.intent_examples import made_examples
    from serve.intent_training import train_from_file

    metrics = train_from_file(source, out, seed, made_examples(made, seed))
    console.print_json(json.dumps(metrics))


def _heads(settings: Settings) -> dict[str, Path]:
    from serve.catalog import head_folder

    return {"support": head_folder(settings.support.intents)}


def _trained(settings: Settings, queue: Any) -> dict[str, Path]:
    """The head of a queue that brings its own examples, trained once per content."""
    if queue.examples is None:
        return {}
    import hashlib

    from serve.intent_training import train_from_file

    digest = hashlib.sha256(queue.examples.read_bytes()).hexdigest()[:16]
    out = settings.path(f"heads/{queue.head}-{digest}")
    if not (out / "metrics.json").is_file():
        _say(f"training the intent head {queue.head} on {len(queue.past)} examples")
        train_from_file(queue.examples, out)
    return {queue.head: out}


async def _work(
    stack: Any, queue: Any, settings: Settings, asks: bool
) -> tuple[dict[str, Any], Any]:
    """The report, and, if the demo `asks`, an approval that a person can answer."""
    from serve import demo as demos

    await demos.fill(stack, queue, _say)
    began = time.monotonic()
    rows = await demos.work(stack, queue, _show)
    totals = demos.totals(rows, settings, time.monotonic() - began)
    _show_totals(totals)
    written = {
        "queue": queue.name, "profile": settings.profile, "startup_s": stack.phases,
        "tickets": rows, "totals": totals,
    }  # fmt: skip
    return written, await demos.offer(stack, queue, rows) if asks else None


def _show(row: dict[str, Any]) -> None:
    console.print(
        f"{row['id']:>6}  {row['intent'] or '-':<17.17} {row['confidence']:.2f}"
        f"  {row['model']:<16.16} {len(row['evidence'])} ev"
        f"  {row['decision']:<9} ${row['cost_usd']:.6f} {row['latency_ms']:>6.0f} ms"
        f"  {row['reason'][:90]}",
        markup=False,
    )


def _show_totals(totals: dict[str, Any]) -> None:
    count = totals["tickets"]
    share = totals["automated"] / count if count else 0.0
    console.print()
    console.print(f"tickets    {count}, automated {totals['automated']} ({share:.0%})")
    console.print(f"escalated  {totals['escalated']}, failed {totals['failed']}")
    for reason, number in totals["escalated_by_reason"].items():
        console.print(f"             {number:>3}  {reason}", markup=False)
    for model, use in totals["by_model"].items():
        console.print(
            f"{model:<10} {use['calls']:.0f} calls, {use['prompt_tokens']:.0f} tokens in, "
            f"{use['completion_tokens']:.0f} out, ${use['cost_usd']:.6f}"
        )
    console.print(
        f"cost       ${totals['cost_usd']:.6f}; on planner alone "
        f"${totals['cost_usd_planner_alone']:.6f}"
    )
    console.print(
        f"a ticket   p50 {totals['latency_ms_p50']:.0f} ms, p95 {totals['latency_ms_p95']:.0f} ms; "
        f"the queue took {totals['seconds']:.1f} s"
    )


def _show_approval(asked: Any, settings: Settings) -> None:
    if asked is None:
        return
    variable = f"MAINSPRING_DATA_DIR={settings.data_dir}"
    console.print(f"\na person is asked about {asked.cents / 100:.2f} EUR; answer it with one of:")
    for words in (
        f"show {asked.id}",
        f"approve {asked.id} --by YOU --at-most 30.00",
        f"deny {asked.id} --by YOU",
    ):
        console.print(f"  {variable} mainspring approvals {words}", markup=False)


def _show_addresses(stack: Any) -> None:
    url = stack.url
    json_header = "-H 'content-type: application/json'"
    console.print(f"\nserving at {url}/v1, console at {url}/console, until Ctrl-C; try:")
    for line in (
        f"curl {url}/v1/models",
        f"curl -i {url}/v1/chat/completions {json_header} -d "
        '\'{"model": "auto", "messages": [{"role": "user", "content": "What can you do?"}]}\'',
        f"curl {url}/v1/embeddings {json_header} -d "
        '\'{"model": "minilm", "input": "where is my order"}\'',
    ):
        console.print(f"  {line}", markup=False)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends the command with status 130 and no stack trace."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _say(text: str) -> None:
    console.print(f"[dim]{time.strftime('%H:%M:%S')}[/dim] {text}", markup=True)


operator_cli.register(app)
run_cli.register(app)
governance_cli.register(app)
audit_cli.register(app)
lists_cli.register()
cluster_cli.register(app)
keys_cli.register(app)
mcp_cli.register(app)
pseudonyms_cli.register(app)
report.register(app)
router_cli.register(app)
tools_cli.register(app)
upkeep_cli.register(app)

if __name__ == "__main__":
    main()
