"""A short fuzz, in a process of its own so that a crash is a failure; ``make fuzz`` runs the long one."""

import subprocess
import sys

from tests.conftest import REPOSITORY


def test_mutated_images_and_tars_are_decoded_or_counted_as_damaged():
    finished = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.mutants", "1000", "100"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "'damaged'" in finished.stdout
    assert "'decoded'" in finished.stdout
