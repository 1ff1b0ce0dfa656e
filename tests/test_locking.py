"""One process writes to a folder at a time."""

import json
import os
import socket
import subprocess
import sys

import pytest

from demask_hf.files import WriteError
from demask_hf.locking import locked


# Holds the lock until its input ends.
HOLDER = """
import sys
from pathlib import Path
from demask_hf.locking import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Return a process that writes to a folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "out")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_writer_is_told_who_the_first_is(holder, tmp_path):
    message = (
        rf"`work` must be a folder that no other process writes to, got '.*out', which process {holder.pid} on "
        rf"{socket.gethostname()} uses\."
    )
    with pytest.raises(ValueError, match=message), locked(tmp_path / "out", "work"):
        pass
    # Another process of the same launch.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANK", "1")
        with locked(tmp_path / "out", is_shared=True):
            pass
        with pytest.raises(ValueError, match="no other process writes to"), locked(tmp_path / "out"):
            pass


def test_a_killed_writer_gives_its_folder_back(holder, tmp_path):
    holder.kill()
    holder.wait()
    for _ in range(2):
        with locked(tmp_path / "out"):
            holds = json.loads((tmp_path / "out" / ".writer.json").read_text())
            assert holds == {"process": os.getpid(), "host": socket.gethostname()}
    assert not (tmp_path / "out" / ".writer.json").exists()


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="exists: file was not written to"), locked(tmp_path / "file"):
        pass
