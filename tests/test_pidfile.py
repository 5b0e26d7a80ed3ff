"""Who runs here, and who only did."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from gossip.pidfile import PidFile, running_pid

HOLDS = "import sys; from gossip.pidfile import PidFile; from pathlib import Path\n"
HOLDS += "with PidFile(Path(sys.argv[1])): print('ready', flush=True); sys.stdin.read()"


def test_a_process_that_was_killed_is_not_running(tmp_path: Path) -> None:
    """Its file stays, and the number in it may be anybody's by now."""
    assert running_pid(tmp_path) == 0
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert running_pid(tmp_path) == process.pid
        process.kill()
        process.wait()
    assert (tmp_path / "node.pid").exists()
    assert running_pid(tmp_path) == 0
    with PidFile(tmp_path):
        assert running_pid(tmp_path) == os.getpid()
    assert not (tmp_path / "node.pid").exists()
