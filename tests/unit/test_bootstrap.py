"""The set-up says in one line what is wrong, and installs again only when something changed."""

import ast
import subprocess
from pathlib import Path

import pytest

from cluster import bootstrap


@pytest.fixture
def venv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set-up that has everything but does nothing."""
    folder = tmp_path / "venv"
    folder.mkdir()
    monkeypatch.setattr(bootstrap, "VENV", str(folder))
    monkeypatch.setattr(bootstrap, "BIN", str(folder / "bin"))
    monkeypatch.setattr(bootstrap, "find_problem", lambda: "")
    return folder


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often an installation was made."""
    times: list[int] = []
    monkeypatch.setattr(bootstrap, "install", lambda: times.append(1))
    return times


def test_a_second_set_up_installs_nothing(venv: Path, installed: list[int]) -> None:
    assert [bootstrap.main(), bootstrap.main()] == [0, 0]
    assert len(installed) == 1


def test_other_constraints_are_installed(
    venv: Path, installed: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bootstrap.main()
    other = tmp_path / "constraints.txt"
    other.write_text("ray==0.1\n")
    monkeypatch.setattr(bootstrap, "CONSTRAINTS", str(other))
    bootstrap.main()
    assert len(installed) == 2


def test_a_failed_installation_is_tried_again_and_says_where_it_failed(
    venv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise subprocess.CalledProcessError(1, ["uv", "pip", "install"])

    monkeypatch.setattr(bootstrap, "install", fail)
    assert [bootstrap.main(), bootstrap.main()] == [1, 1]
    assert "setup: failed at: uv pip install" in capsys.readouterr().out


@pytest.mark.parametrize("version", [(3, 8, 10), (3, 10, 0), (3, 14, 0), (4, 0, 0)])
def test_another_python_is_refused_by_name(
    version: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.version_info", version)
    assert f"Python {version[0]}.{version[1]} does not do" in bootstrap.find_problem()


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 12, 1), (3, 13, 9)])
def test_the_supported_pythons_do(
    version: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.version_info", version)
    monkeypatch.setattr(bootstrap, "has_avx2", lambda: True)
    assert bootstrap.find_problem() == ""


def test_a_processor_without_avx2_is_refused_for_the_cpu_backend_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(bootstrap, "has_avx2", lambda: False)
    monkeypatch.setattr(bootstrap, "EXTRA", "cpu")
    assert "AVX2" in bootstrap.find_problem()
    monkeypatch.setattr(bootstrap, "EXTRA", "gpu")
    assert bootstrap.find_problem() == ""


def test_a_full_disk_is_seen_before_a_new_environment_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "BIN", str(tmp_path / "bin"))
    monkeypatch.setattr(bootstrap, "NEEDED_GB", 1e9)
    assert "GB of disk are free" in bootstrap.find_problem()


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["torch-2.13.0-cp311.whl"], "--find-links"), (["numpy-1.whl"], "--torch-backend")],
)
def test_torch_comes_from_the_folder_that_pip_was_told_of_when_it_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], expected: str
) -> None:
    for name in names:
        (tmp_path / name).touch()
    monkeypatch.setattr(bootstrap, "EXTRA", "cpu")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert bootstrap.where_torch_is()[0] == expected
    monkeypatch.setattr(bootstrap, "EXTRA", "gpu")
    assert bootstrap.where_torch_is() == []


def test_bytecode_is_written_even_where_the_machine_says_not_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[dict[str, str]] = []
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr("subprocess.run", lambda *_a, **options: seen.append(options["env"]))
    bootstrap.run(["true"])
    assert "PYTHONDONTWRITEBYTECODE" not in seen[0]


def test_it_needs_nothing_but_pythons_own_library_and_old_pythons_can_read_it() -> None:
    tree = ast.parse(Path(bootstrap.__file__).read_text("utf-8"))
    imports = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert imports <= {"hashlib", "os", "platform", "shutil", "subprocess", "sys"}
    new = (ast.ImportFrom, ast.AnnAssign, ast.Match, ast.NamedExpr, ast.AsyncFunctionDef)
    assert not [node for node in ast.walk(tree) if isinstance(node, new)]
