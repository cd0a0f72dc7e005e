"""What docs/clients.md shows is run: blocks of Python, and commands of the programs that are only here."""

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

GUIDE = (ROOT / "docs/clients.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^\$ (lm_eval .*)$", GUIDE, re.MULTILINE)


def test_there_is_something_to_run():
    assert len(BLOCKS) >= 4 and len(COMMANDS) >= 2


def run(command, **environment):
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, check=True, capture_output=True, text=True, timeout=200
    ).stdout


@pytest.mark.parametrize("block", BLOCKS)
def test_python(block, address):
    assert "127.0.0.1:8080" in block
    assert run([sys.executable, "-c", block.replace("127.0.0.1:8080", address)]).strip()


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command, address):
    assert "|llamas_" in run(["sh", "-ec", command.replace("127.0.0.1:8080", address)])
