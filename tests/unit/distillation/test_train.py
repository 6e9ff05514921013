"""Training: repeatable, resumable, and clear about what it can't use."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cluster.errors import DataError, InvalidInput, Unavailable
from serve.distill.chats import Message, TracedChat
from serve.distill.shapes import load
from serve.distill.tokenizer import build_tokenizer
from serve.distill.train import Options, Training


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Threads that wait for each other on cores that others use take a hundred times as long."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def one_tokenizer() -> Iterator[None]:
    """Every training from scratch makes the same one, which takes longer than these trainings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serve.distill.train.build_tokenizer", functools.cache(build_tokenizer))
        yield


def trained(out: Path, steps: int = 4, stop_after: int = 0, resume: bool = False) -> list[str]:
    told: list[str] = []
    options = Options("tiny", steps=steps, tokens_per_step=512)
    training = Training(options, out, told.append, resume=resume)
    if stop_after:
        broken_off(training, stop_after)
    else:
        training.run()
    return told


def broken_off(training: Training, steps: int) -> None:
    """Run as a process does that is killed right after it stored its state."""
    for batch in training._stream():
        training._step(batch, training._done())
        training.progress.step += 1
        training.progress.chats = batch.drawn
        if training.progress.step == steps:
            return training._store()


def weights(folder: Path) -> torch.Tensor:
    model, _ = load(folder)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_the_same_seed_and_steps_give_the_same_weights_resumed_or_not(tmp_path: Path) -> None:
    trained(tmp_path / "whole")
    trained(tmp_path / "broken", stop_after=2)
    trained(tmp_path / "broken", resume=True)
    assert torch.equal(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    assert not (tmp_path / "broken" / "state.pt").exists()


def test_a_training_leaves_a_checkpoint_its_record_and_its_curves(tmp_path: Path) -> None:
    told = trained(tmp_path / "out")
    record = json.loads((tmp_path / "out" / "training.json").read_text("utf-8"))
    assert (record["step"], record["model"], record["layers"]) == (4, "tiny", 2)
    assert str(tmp_path) not in json.dumps(record)
    assert (tmp_path / "out" / "curves.png").stat().st_size > 1000
    assert any("validation after 4 steps" in line for line in told)


def test_traces_are_learned_on_top_of_a_base(tmp_path: Path) -> None:
    trained(tmp_path / "base", steps=1)
    asked = (Message(role="user", content="hello"), Message(role="assistant", content="Good day."))
    options = Options("tiny", steps=2, tokens_per_step=512, base=str(tmp_path / "base"))
    Training(options, tmp_path / "out", print, [TracedChat(messages=asked)]).run()
    record = json.loads((tmp_path / "out" / "training.json").read_text("utf-8"))
    assert (record["base"]["name"], record["base"]["step"], record["traces"]) == ("base", 1, 1)
    assert not torch.equal(weights(tmp_path / "base"), weights(tmp_path / "out"))


def test_what_can_not_be_trained_is_refused_by_name(tmp_path: Path) -> None:
    asked = (Message(role="user", content="hi"), Message(role="assistant", content="Hey."))
    heldout = TracedChat(messages=asked, split="heldout")
    with pytest.raises(InvalidInput, match="one of planner, routine, tiny"):
        Training(Options("huge"), tmp_path, print)
    with pytest.raises(InvalidInput, match="split 'train'"):
        Training(Options("tiny"), tmp_path, print, [heldout])
    with pytest.raises(InvalidInput, match="broken off"):
        Training(Options("tiny"), tmp_path, print, resume=True)
    trained(tmp_path / "base", steps=1)
    shard = tmp_path / "base" / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"model\.safetensors"):
        Training(Options("tiny", base=str(tmp_path / "base")), tmp_path / "out", print)


def test_a_resumed_training_must_be_the_one_that_was_broken_off(tmp_path: Path) -> None:
    trained(tmp_path / "out", stop_after=1)
    with pytest.raises(InvalidInput, match="as it began"):
        trained(tmp_path / "out", steps=9, resume=True)


def test_a_full_disk_is_named_and_what_was_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(tmp_path / "out", steps=1)
    before = weights(tmp_path / "out")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transformers.Qwen3ForCausalLM.save_pretrained", full)
    with pytest.raises(Unavailable, match="No space left"):
        trained(tmp_path / "out", steps=2)
    assert torch.equal(weights(tmp_path / "out"), before)
    assert not list((tmp_path / "out").glob(".part-*"))
