"""`mainspring pseudonyms`: a text for elsewhere without what is personal, and its way back.

Works on the data folder's own database, whether the stack is running or not.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import typer

from agents.noted import note
from agents.pii import Account
from agents.presidio import detectors
from agents.pseudonyms import Pseudonyms
from cluster.errors import InvalidInput
from cluster.ids import SystemClock
from cluster.settings import Settings, load
from serve.operator_cli import BY, PROFILE, TENANT, opened

pseudonyms = typer.Typer(
    no_args_is_help=True, help="Texts that leave the house without what is personal, and come back."
)
MAX_BYTES: Final = 10_000_000
_FILE: Final = typer.Argument(..., help="A UTF-8 text.")


@contextlib.contextmanager
def kept(settings: Settings) -> Iterator[Pseudonyms]:
    """The pseudonyms of the settings' data folder."""
    folder = settings.data_dir.resolve()
    with contextlib.closing(
        Pseudonyms(
            settings.agents.pseudonyms, folder, SystemClock(), detectors(settings.agents.pii)
        )
    ) as opened:
        yield opened


@pseudonyms.command("hide")
def hide(
    file: Path = _FILE,
    customer: str = typer.Option(
        "", help="A customer of the help-desk whom it is about: names and address are found then."
    ),
    subject: str = typer.Option("", help="Whom it is about otherwise, as memory calls them."),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Print a text with pseudonyms in the place of what is personal."""
    settings = load(profile)
    if customer and subject:
        raise InvalidInput("subject", subject, "a customer or a subject, not both")
    said, account = _read(file), _account(settings, customer) if customer else None
    with kept(settings) as found:
        owner = tenant or settings.tenant
        typer.echo(found.hide(owner, said, account, customer or subject), nl=False)


@pseudonyms.command("reveal")
def reveal(
    file: Path = _FILE,
    by: str = BY,
    why: str = typer.Option("", help="Why; kept in the journal."),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Print a text with the values put back. That it was asked for is journaled first; what brings
    nothing back stays, and is counted on standard error."""
    settings = load(profile)
    owner, said = tenant or settings.tenant, _read(file)
    with opened(settings) as journal, kept(settings) as found:
        told, unknown = found.reveal(owner, said)
        given = {"unknown": unknown}
        note(journal, SystemClock(), owner, "reveal", file.name, "revealed", given, by, why)
    typer.echo(told, nl=False)
    if unknown:
        typer.echo(f"{unknown} pseudonyms bring nothing back", err=True)


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.add_typer(pseudonyms, name="pseudonyms")


def _account(settings: Settings, customer: str) -> Account:
    from agents.helpdesk import HelpDesk

    with contextlib.closing(HelpDesk(settings.path("desk.db"), SystemClock())) as desk:
        return desk.own(customer)


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise InvalidInput("file", str(file), f"at most {MAX_BYTES} bytes")
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput("file", str(file), f"a readable UTF-8 text ({error})") from None
