"""A package imports from lower floors only."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_no_package_imports_from_a_higher_floor() -> None:
    command = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run(
        [command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 kept, 0 broken" in done.stdout


def test_the_command_line_is_read_before_ray_is() -> None:
    """Ray reads its variables, the token's among them, once: when it is imported."""
    asked = "import sys, serve.cli; sys.exit('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, check=False, timeout=100)
    assert done.returncode == 0
