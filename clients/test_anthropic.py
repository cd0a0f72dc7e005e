"""Anthropic's own client: messages, counting, and its exceptions."""

import anthropic
import pytest


@pytest.fixture
def client(address):
    return anthropic.Anthropic(base_url=f"http://{address}", api_key="any", max_retries=0)


def create(client, messages, **settings):
    return client.messages.create(model="cria", messages=messages, **{"max_tokens": 100, **settings})


def text_of(message):
    return "".join(block.text for block in message.content if block.type == "text")


def test_messages(client, messages):
    message = create(client, messages, extra_body={"temperature": 0})
    assert (message.type, message.role, message.model, message.stop_reason) == ("message", "assistant", "cria", "end_turn")
    assert "cria" in text_of(message)
    assert message.usage.output_tokens > 3
    short = create(client, messages, max_tokens=2)
    assert short.stop_reason == "max_tokens" and short.usage.output_tokens == 2


def test_system_blocks_and_stop_sequences(client, messages):
    blocks = [{"role": "user", "content": [{"type": "text", "text": messages[0]["content"]}]}]
    settings = {"system": [{"type": "text", "text": "Be brief."}], "extra_body": {"temperature": 0}}
    whole = text_of(create(client, blocks, **settings))
    stop = whole[4:7]
    message = create(client, blocks, stop_sequences=[stop], **settings)
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", stop)
    assert text_of(message) == whole[: whole.index(stop)]


def test_stream(client, messages):
    settings = {"model": "cria", "messages": messages, "max_tokens": 100, "extra_body": {"temperature": 0}}
    with client.messages.stream(**settings) as stream:
        pieces = list(stream.text_stream)
        message = stream.get_final_message()
    assert len(pieces) > 3
    assert "".join(pieces) == text_of(message) == text_of(create(client, messages, extra_body={"temperature": 0}))
    assert message.stop_reason == "end_turn" and message.usage.output_tokens > 3


def test_count_tokens(client, messages):
    count = client.messages.count_tokens(model="cria", messages=messages)
    usage = create(client, messages, max_tokens=1).usage
    assert count.input_tokens == usage.input_tokens + usage.cache_read_input_tokens
    longer = client.messages.count_tokens(model="cria", messages=messages, system="Be brief.")
    assert longer.input_tokens > count.input_tokens


def test_errors(client, messages):
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="another", messages=messages, max_tokens=1)
    with pytest.raises(anthropic.BadRequestError) as caught:
        create(client, messages, max_tokens=0)
    assert caught.value.body["error"]["type"] == "invalid_request_error"
    assert "max_tokens" in caught.value.message
    with pytest.raises(anthropic.BadRequestError, match="thinking"):
        create(client, messages, thinking={"type": "enabled", "budget_tokens": 1024})
    with pytest.raises(anthropic.BadRequestError, match="messages"):
        create(client, [{"role": "system", "content": "x"}])
