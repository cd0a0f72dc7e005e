"""Ollama's own client: chat, generate, list, show, and its exception."""

import ollama
import pytest


@pytest.fixture
def client(address):
    return ollama.Client(host=f"http://{address}")


GREEDY = {"temperature": 0}


def test_chat(client, messages):
    answer = client.chat("cria", messages, options=GREEDY)
    assert answer.message.role == "assistant" and "cria" in answer.message.content
    assert answer.done and answer.done_reason == "stop" and answer.eval_count > 3 and answer.prompt_eval_count > 10
    pieces = list(client.chat("cria:latest", messages, stream=True, options=GREEDY))
    assert len(pieces) > 3 and [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert "".join(piece.message.content for piece in pieces) == answer.message.content


def test_generate(client, messages):
    answer = client.generate("cria", messages[0]["content"], options=GREEDY)
    assert answer.response == client.chat("cria", messages, options=GREEDY).message.content
    pieces = client.generate("cria", messages[0]["content"], stream=True, options=GREEDY)
    assert "".join(piece.response for piece in pieces) == answer.response
    short = client.generate("cria", "A llama", raw=True, options={**GREEDY, "num_predict": 2})
    assert short.eval_count == 2 and short.done_reason == "length"
    stop = answer.response[4:7]
    stopped = client.generate("cria", messages[0]["content"], options={**GREEDY, "stop": [stop]})
    assert stopped.response == answer.response[: answer.response.index(stop)]


def test_embed(client):
    answer = client.embed("cria", ["A llama eats grass.", "The sun"])
    assert len(answer.embeddings) == 2 and answer.prompt_eval_count > 4
    assert client.embed("cria", "The sun").embeddings[0] == answer.embeddings[1]


def test_list_and_show(client):
    [model] = client.list().models
    assert model.model == "cria" and model.size > 1_000_000 and model.details.family == "llama"
    shown = client.show("cria")
    assert shown.modelinfo["general.architecture"] == "llama"
    assert "completion" in shown.capabilities


def test_errors(client, messages):
    with pytest.raises(ollama.ResponseError) as caught:
        client.chat("another", messages)
    assert caught.value.status_code == 404 and "another" in caught.value.error
    with pytest.raises(ollama.ResponseError, match="options.temperature") as caught:
        client.chat("cria", messages, options={"temperature": "hot"})
    assert caught.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match="options.mirostat"):
        list(client.chat("cria", messages, stream=True, options={"mirostat": 2}))
