"""A token is good for one call, once, for a while; everything else is refused and written down."""

import json
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from biscuit_auth import Biscuit, BlockBuilder
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import refusals
from agents.guarded import Guarded
from agents.guarding import KEYS
from agents.intent_keys import Signing, Trusted, ensure, rotate
from agents.intents import MAX_BYTES, Call, Guard
from agents.refusals import Refusals
from benchmarks.token_forgeries import KINDS, Office, forged
from cluster.errors import DataError, IntentRefused, InvalidInput, NotFound
from tests.fakes import FakeClock

CALL = Call("refund", "k" * 40, "T-001", {"order": "LO-48055", "amount_cents": 4200})


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path, FakeClock())


def _refused(office: Office, token: bytes, call: Call) -> str:
    with pytest.raises(IntentRefused) as caught:
        office.guard.require(token, call)
    return caught.value.reason


def test_a_token_is_good_for_its_call_once(office: Office) -> None:
    token = office.mint.mint("run_1", "pay", CALL)
    office.guard.require(token, CALL)
    assert _refused(office, token, CALL) == "replayed"


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (replace(CALL, tool="assign"), "other tool"),
        (replace(CALL, args={**CALL.args, "amount_cents": 4201}), "other arguments"),
        (replace(CALL, args={**CALL.args, "amount_cents": 1}), "other arguments"),
        (replace(CALL, args={**CALL.args, "note": ""}), "other arguments"),
        (replace(CALL, key="j" * 40), "other run"),
        (replace(CALL, ticket="T-002"), "narrowed"),
    ],
)
def test_it_is_refused_for_anything_else(office: Office, other: Call, reason: str) -> None:
    token = office.mint.mint("run_1", "pay", CALL)
    assert _refused(office, token, other) == reason
    office.guard.require(token, CALL)


def test_it_expires(office: Office) -> None:
    token = office.mint.mint("run_1", "pay", CALL)
    office.clock.step(30.0)
    assert _refused(office, token, CALL) == "expired"


def test_a_rotated_key_signs_nothing_any_more_and_the_next_one_does(office: Office) -> None:
    token = office.mint.mint("run_1", "pay", CALL)
    assert rotate(office.folder) == 2
    assert _refused(office, token, CALL) == "rotated"
    office.guard.require(office.mint.mint("run_1", "pay", CALL), CALL)


def test_a_connectors_new_life_refuses_what_it_may_have_seen(office: Office) -> None:
    token = office.mint.mint("run_1", "pay", CALL)
    office.clock.step(0.5)
    again = Guard(Trusted(office.folder), office.clock, office.refusals.record)
    with pytest.raises(IntentRefused, match="before this connector began") as caught:
        again.require(token, CALL)
    assert caught.value.passing


def test_who_holds_a_token_can_narrow_it_and_not_widen_it(office: Office) -> None:
    _, public = Trusted(office.folder).key()
    token = office.mint.mint("run_1", "pay", CALL)
    less = Biscuit.from_bytes(token, public).append(BlockBuilder("check if spends($c), $c <= 3000"))
    assert _refused(office, bytes(less.to_bytes()), CALL) == "narrowed"
    more = Biscuit.from_bytes(token, public).append(
        BlockBuilder('intent("run_1", "pay", "refund", "x", "y", "T-001"); spends(1);')
    )
    assert _refused(office, bytes(more.to_bytes()), replace(CALL, key="y")) == "other run"


@pytest.mark.parametrize("token", [b"", b"x", b"\0" * 300, b"x" * (MAX_BYTES + 1)])
def test_what_is_no_token_is_refused(office: Office, token: bytes) -> None:
    assert _refused(office, token, CALL) in {"missing", "altered"}


@settings(max_examples=40)
@given(data=st.data())
@pytest.mark.parametrize("kind", KINDS)
def test_a_forged_or_stolen_token_is_refused_however_it_was_made(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    office = Office(tmp_path_factory.mktemp("office"), FakeClock())
    token, call = forged(office, kind, data.draw)
    assert _refused(office, token, call) in KINDS[kind]


def test_what_is_refused_is_written_down_without_its_arguments(office: Office) -> None:
    for reason in ("missing", "altered"):
        assert _refused(office, b"" if reason == "missing" else b"x" * 99, CALL) == reason
    lines = list(refusals.read(office.file))
    assert [line["reason"] for line in lines] == ["missing", "altered"]
    assert "LO-48055" not in office.file.read_text("utf-8")
    assert Refusals(office.file, office.clock).count == 2


@pytest.mark.parametrize("change", ["edit", "remove", "swap"])
def test_a_changed_refusal_is_found(office: Office, change: str) -> None:
    for _ in range(3):
        _refused(office, b"", CALL)
    lines = office.file.read_text("utf-8").splitlines()
    changed = {
        "edit": [lines[0].replace("missing", "nothing"), *lines[1:]],
        "remove": lines[1:],
        "swap": [lines[1], lines[0], lines[2]],
    }[change]
    office.file.write_text("\n".join(changed) + "\n", "utf-8")
    with pytest.raises(DataError, match="line 1"):
        list(refusals.read(office.file))


def test_a_line_that_a_crash_broke_off_is_left_out(office: Office) -> None:
    _refused(office, b"", CALL)
    with office.file.open("a") as file:
        file.write('{"at": 1')
    assert len(list(refusals.read(office.file))) == 1


def test_a_connector_does_nothing_before_its_guard(office: Office) -> None:
    class Mail(Guarded):
        sent = 0

        def perform(self, *_: Any) -> dict[str, Any]:
            self.sent += 1
            return {"kind": "mail"}

    mail = Mail(office.guard)
    with pytest.raises(IntentRefused):
        mail.call("refund", CALL.key, CALL.ticket, CALL.args, b"")
    with pytest.raises(IntentRefused):
        mail.lookup(CALL.key, CALL.ticket, office.mint.mint("run_1", "pay", CALL))
    assert mail.sent == 0
    token = office.mint.mint("run_1", "pay", CALL)
    assert mail.call(CALL.tool, CALL.key, CALL.ticket, CALL.args, token) == {"kind": "mail"}
    with pytest.raises(InvalidInput):
        Guarded(office.guard).perform("x", "", "", {})


def test_the_keys_are_this_users_alone_and_a_broken_file_is_named(tmp_path: Path) -> None:
    folder = tmp_path / KEYS
    with pytest.raises(NotFound):
        Signing(folder).key()
    ensure(folder)
    ensure(folder)
    assert Signing(folder).key()[0] == Trusted(folder).key()[0] == 1
    for file in _files(folder):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        file.write_text(json.dumps({"number": 1}), "ascii")
    for reader in (Signing(folder), Trusted(folder)):
        with pytest.raises(DataError, match="not a key"):
            reader.key()


def _files(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.iterdir())


def test_a_token_says_nothing_but_hashes_and_names(office: Office) -> None:
    token = office.mint.mint("run_1", "pay", CALL)
    assert b"LO-48055" not in token and len(token) < 600
