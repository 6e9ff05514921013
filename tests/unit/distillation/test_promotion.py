"""What may take over from a checkpoint, and that a refusal changes nothing."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from cluster.errors import Conflict, DataError, InvalidInput, MainspringError, NotFound, Unavailable
from cluster.ids import SystemClock
from cluster.settings import Settings, load
from serve.distill.digest import digest
from serve.distill.evaluate import FILE
from serve.distill.gate import accepted
from serve.distill.promotion import Folder, place_of, promote, roll_back
from serve.distill.vetting import local_folder, validate
from serve.registry import Change, Registry
from serve.running import Claim, Running
from tests.candidates import INCUMBENT, candidate, change_weight, evaluated, shard

CONTEXT = 1024


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return candidate(tmp_path / "candidate", 1.5)


def edit(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), "utf-8")


def retensor(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = shard(folder)
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def truncate(folder: Path, keep: float) -> None:
    path = shard(folder)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


def unweigh(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        path.unlink()


def rename_token(folder: Path) -> None:
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    a, b = list(vocabulary)[300:302]
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    path.write_text(json.dumps(tokenizer), "utf-8")


def some_tensor(folder: Path) -> str:
    return min(str(name) for name in load_file(shard(folder)))


def refusal(folder: Path) -> str:
    """Why the checkpoint is refused, or nothing."""
    try:
        validate(folder, INCUMBENT, CONTEXT)
    except (InvalidInput, DataError) as error:
        return str(error)
    return ""


def test_a_checkpoint_like_the_incumbent_passes(folder: Path) -> None:
    assert refusal(folder) == ""


BAD: list[tuple[str, Callable[[Path], object], str]] = [
    ("no config", lambda f: (f / "config.json").unlink(), "config.json"),
    ("config no JSON", lambda f: (f / "config.json").write_text("{"), "config.json"),
    ("config a list", lambda f: (f / "config.json").write_text("[]"), "config.json"),
    ("another architecture", lambda f: edit(f, "config.json", architectures=["LlamaForCausalLM"]),
     "Qwen3ForCausalLM"),
    ("heads that do not divide", lambda f: edit(f, "config.json", num_key_value_heads=0), "config"),
    ("nonsense", lambda f: edit(f, "config.json", hidden_size="big"), "config.json"),
    ("short context", lambda f: edit(f, "config.json", max_position_embeddings=512), "1024"),
    ("no tokenizer", lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json"),
    ("tokenizer no JSON", lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer.json"),
    ("tokenizer of nothing", lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json"),
    ("other vocabulary", rename_token, "vocabulary"),
    ("other end", lambda f: edit(f, "tokenizer_config.json", eos_token="<|endoftext|>"),
     "special tokens"),
    ("other eos", lambda f: edit(f, "config.json", eos_token_id=7), "eos_token_id"),
    ("other template", lambda f: edit(f, "tokenizer_config.json", chat_template="{{ 1 }}"),
     "chat template"),
    ("no weights", unweigh, "safetensors"),
    ("half the weights", lambda f: truncate(f, 0.5), "safetensors"),
    ("a header alone", lambda f: truncate(f, 0.001), "safetensors"),
    ("noise", lambda f: shard(f).write_bytes(b"\x07" * 4096), "safetensors"),
    ("more layers", lambda f: edit(f, "config.json", num_hidden_layers=10**7), "layers"),
    ("another width", lambda f: edit(f, "config.json", intermediate_size=64), "config.json"),
    ("one tensor less", lambda f: retensor(f, lambda w: w.pop("model.norm.weight")), "norm"),
    ("one tensor more", lambda f: retensor(f, lambda w: w.update(x=w["model.norm.weight"] + 1)),
     "nothing of x"),
    ("not a number", lambda f: change_weight(f, some_tensor(f), float("nan")), "finite"),
    ("infinite", lambda f: change_weight(f, "model.norm.weight", float("inf")), "finite"),
    ("an index of nothing", lambda f: (f / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "gone.safetensors"}}'), "gone.safetensors"),
    ("an empty index", lambda f: (f / "model.safetensors.index.json").write_text("{}"), "index"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "named"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_a_checkpoint_that_cannot_serve_is_refused_by_name(
    folder: Path, spoil: Callable[[Path], object], named: str
) -> None:
    spoil(folder)
    told = refusal(folder)
    assert re.search(named, told)
    assert str(folder) in told


def test_an_incumbent_that_is_nowhere_on_this_machine_is_an_input_error() -> None:
    with pytest.raises(InvalidInput, match="Hugging Face cache"):
        local_folder("nobody/nothing-of-the-kind")
    with pytest.raises(InvalidInput):
        local_folder("s3://bucket/folder/model")


def test_an_evaluation_that_speaks_for_the_candidate_is_accepted(folder: Path) -> None:
    assert accepted(evaluated(folder), INCUMBENT).verdict == "not worse"
    assert accepted(evaluated(folder, better_by=0.1), INCUMBENT).verdict == "better"


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda f: (f / FILE).unlink(), "distill evaluate"),
        (lambda f: change_weight(f, "model.norm.weight", 3.0), "other files"),
        (lambda f: edit(f, FILE, incumbent="0" * 16), "compares with 0000"),
        (lambda f: evaluated(f, better_by=-0.1), "worse"),
        (lambda f: evaluated(f, better_by=0.1, count=10), "too few"),
    ],
    ids=["none", "of other files", "against another", "worse", "too few"],
)
def test_without_an_evaluation_for_it_nothing_is_promoted(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], object], named: str
) -> None:
    evaluated(folder)
    spoil(folder)
    settings = own(tmp_path)
    with pytest.raises(Conflict, match=named):
        put(settings, folder)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"verdict": "better"}'])
def test_an_evaluation_that_is_none_is_named(folder: Path, content: str) -> None:
    (folder / FILE).write_text(content)
    with pytest.raises(DataError, match=r"evaluation\.json"):
        accepted(folder, INCUMBENT)


def test_an_evaluation_with_a_made_up_verdict_is_none(folder: Path) -> None:
    edit(evaluated(folder), FILE, verdict="fine")
    with pytest.raises(DataError, match=r"evaluation\.json"):
        accepted(folder, INCUMBENT)


def test_what_serves_already_is_not_promoted(tmp_path: Path) -> None:
    same = candidate(tmp_path / "same")
    for path in INCUMBENT.glob("*.safetensors"):
        (same / path.name).write_bytes(path.read_bytes())
    with pytest.raises(Conflict, match="already"):
        accepted(same, INCUMBENT)


def own(tmp_path: Path) -> Settings:
    return load("local", data_dir=tmp_path / "data")


def put(settings: Settings, folder: Path, place: Any = None, model: str = "routine") -> Change:
    place = place or Folder(settings)
    return promote(place, settings.data_dir, model, folder, SystemClock(), lambda _: None)


def test_without_a_stack_a_promotion_counts_from_the_next_start(
    folder: Path, tmp_path: Path
) -> None:
    settings, said = own(tmp_path), list[str]()
    with place_of(settings, said.append) as place:
        done = put(settings, evaluated(folder), place)
    assert "next start" in said[-1]
    routine = settings.models[1]
    registry = Registry(settings.data_dir, routine)
    assert registry.current() == done.version == digest(folder)
    assert done.evaluation["verdict"] == "not worse" and done.by and done.base == routine.source
    with place_of(settings, said.append) as place:
        roll_back(place, settings.data_dir, "routine", SystemClock(), said.append)
    assert registry.current() is None
    with pytest.raises(NotFound):
        roll_back(Folder(settings), settings.data_dir, "routine", SystemClock(), said.append)


def test_the_next_candidate_is_compared_with_what_was_promoted(
    folder: Path, tmp_path: Path
) -> None:
    settings = own(tmp_path)
    put(settings, evaluated(folder))
    second = evaluated(candidate(tmp_path / "second", 2.0))
    with pytest.raises(Conflict, match=f"{digest(folder)} serves"):
        put(settings, second)
    put(settings, evaluated(second, incumbent=folder))
    assert Registry(settings.data_dir, settings.models[1]).versions() == [
        digest(folder), digest(second),
    ]  # fmt: skip


def test_an_engine_that_does_not_come_up_leaves_the_history_untouched(
    folder: Path, tmp_path: Path
) -> None:
    settings = own(tmp_path)

    class Refusing(Folder):
        def apply(self, model: str, change: Change, over: str | None, to: str | None) -> None:
            raise Unavailable(f"model {model}", "no memory")

    with pytest.raises(Unavailable):
        put(settings, evaluated(folder), Refusing(settings))
    assert Registry(settings.data_dir, settings.models[1]).history() == []


def test_an_unknown_model_is_not_found(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="planer"):
        put(own(tmp_path), evaluated(folder), model="planer")


def test_a_stack_that_is_still_starting_is_not_swapped_under(tmp_path: Path) -> None:
    import os

    settings = own(tmp_path)
    claim = Claim(settings.data_dir)
    claim.write(Running(os.getpid(), "stack_1"))
    try:
        with pytest.raises(MainspringError, match="starting"), place_of(settings, print):
            raise AssertionError("a place was given")
    finally:
        claim.release()
