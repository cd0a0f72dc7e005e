"""One server of the built-in model for all suites, on a free port of this machine."""

import json
import os
import pathlib
import re
import subprocess
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PUNA = os.environ.get("PUNA", ROOT / "target/debug/puna")

# What the model has learnt; see docs/cria.md.
QUESTION = "What is your name?"


def puna(*arguments):
    """What a run of the program says."""
    return subprocess.run([PUNA, *arguments], check=True, capture_output=True, text=True).stdout


def post(address, path, body):
    """What the server answers, without any client."""
    request = urllib.request.Request(f"http://{address}{path}", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def tokens(address, text):
    """The ids of a text."""
    return post(address, "/tokenize", {"prompt": text})["tokens"]


@pytest.fixture(scope="session")
def address(tmp_path_factory):
    """`HOST:PORT` of the server."""
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as written:
        command = [PUNA, "serve", "--port", "0", "--threads", "2", "--context", "1024"]
        environment = os.environ | {"PUNA_HOME": str(log.parent / "home")}
        server = subprocess.Popen(command, stderr=written, env=environment)
    try:
        yield wait_for_address(server, log)
    finally:
        server.terminate()
        # It ends in peace.
        assert server.wait(timeout=60) == 0, log.read_text()


def wait_for_address(server, log):
    while server.poll() is None:
        if found := re.search(r"^serving .* on http://(\S+).*\n", log.read_text(), re.MULTILINE):
            return found[1]
        try:
            server.wait(timeout=0.1)
        except subprocess.TimeoutExpired:
            pass
    raise RuntimeError(f"the server has ended: {log.read_text()}")


@pytest.fixture
def messages():
    """A conversation that the model can answer."""
    return [{"role": "user", "content": QUESTION}]
