"""SIGTERM ends a job of several processes also where its main thread cannot look up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BUSY = """
import hashlib
from visionlora.common.processes import Termination
Termination.handle()
print("busy", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes in C, without the GIL
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_waiting_process_of_several_ends_within_seconds() -> None:
    env = os.environ | {"WORLD_SIZE": "2", "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    assert process.stdout is not None
    assert process.stdout.readline() == "busy\n"
    time.sleep(0.5)  # it is in C now
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 143
    assert said == "terminated.\n"
    assert time.monotonic() - began < 3
