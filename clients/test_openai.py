"""OpenAI's own client: chat, completions, models, and its exceptions."""

import asyncio
import json
import math
from typing import Literal

import openai
import pydantic
import pytest
from conftest import tokens


@pytest.fixture
def client(address):
    return openai.OpenAI(base_url=f"http://{address}/v1", api_key="any", max_retries=0)


def chat(client, messages, **settings):
    return client.chat.completions.create(model="cria", messages=messages, **{"temperature": 0, **settings})


def test_the_environment_is_enough(address, messages, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://{address}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    assert "cria" in chat(openai.OpenAI(), messages).choices[0].message.content


def test_chat(client, messages):
    answer = chat(client, messages)
    assert answer.object == "chat.completion" and answer.model == "cria" and answer.id.startswith("chatcmpl-")
    [choice] = answer.choices
    assert "cria" in choice.message.content
    assert (choice.message.role, choice.finish_reason, choice.logprobs) == ("assistant", "stop", None)
    usage = answer.usage
    assert usage.prompt_tokens > 10 and usage.completion_tokens > 3
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_chat_stream_with_usage(client, messages):
    whole = chat(client, messages)
    chunks = list(chat(client, messages, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert len(chunks) > 4, "piece by piece"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def respond(client, **settings):
    return client.responses.create(model="cria", **{"temperature": 0, **settings})


def test_responses(client, messages):
    said = messages[-1]["content"]
    response = respond(client, input=said)
    assert response.output_text == chat(client, messages).choices[0].message.content
    assert (response.status, response.error, response.incomplete_details) == ("completed", None, None)
    usage = response.usage
    assert usage.input_tokens > 10 and usage.total_tokens == usage.input_tokens + usage.output_tokens
    # Stored, and gone on with, to the same as by saying all of it again.
    assert client.responses.retrieve(response.id).output == response.output
    [item] = client.responses.input_items.list(response.id).data
    assert item.content[0].text == said
    after = respond(client, input="And what do llamas eat?", previous_response_id=response.id)
    everything = [
        {"role": "user", "content": said},
        *[item.to_dict() for item in response.output],
        {"role": "user", "content": "And what do llamas eat?"},
    ]
    assert respond(client, input=everything, store=False).output_text == after.output_text
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        respond(client, input="And then?", previous_response_id=after.id)


def test_responses_stream(client, messages):
    said = messages[-1]["content"]
    whole = respond(client, input=said, store=False)
    with client.responses.stream(model="cria", input=said, temperature=0, store=False) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert final.output_text == whole.output_text and final.usage == whole.usage
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert len(deltas) > 4 and "".join(deltas) == whole.output_text
    assert [event.sequence_number for event in events] == list(range(len(events)))
    cut = respond(client, input=said, max_output_tokens=3, store=False)
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_responses_fit_a_schema(client):
    class Llama(pydantic.BaseModel):
        colour: Literal["white", "brown"]
        legs: Literal[2, 4]

    response = client.responses.parse(model="cria", input="What is a llama like?", text_format=Llama, store=False)
    assert isinstance(response.output_parsed, Llama)


def test_responses_call_functions(client):
    tool = {
        "type": "function",
        "name": "weather",
        "description": "The weather at a place",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"place": {"enum": ["Lima", "Cusco"]}},
            "required": ["place"],
            "additionalProperties": False,
        },
    }
    asked = [{"role": "user", "content": "What is the weather like in Lima?"}]
    response = respond(client, input=asked, tools=[tool], tool_choice="required", parallel_tool_calls=False)
    [call] = response.output
    assert (call.type, call.name) == ("function_call", "weather")
    assert json.loads(call.arguments)["place"] in ["Lima", "Cusco"]
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."}
    after = respond(client, input=[result], previous_response_id=response.id, max_output_tokens=20)
    assert after.output_text and after.previous_response_id == response.id


def test_chat_streams_many_at_once(address, messages):
    async def answers():
        async with openai.AsyncOpenAI(base_url=f"http://{address}/v1", api_key="any") as client:

            async def one():
                stream = await chat(client, messages, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            return await asyncio.gather(*(one() for _ in range(8)))

    assert len(set(asyncio.run(answers()))) == 1, "an answer among others is the one alone"


def test_the_last_message_is_gone_on_with(client, messages):
    whole = chat(client, messages).choices[0].message.content
    # A whole word: one that is cut has other tokens.
    word = whole.split()[0]
    begun = [*messages, {"role": "assistant", "content": word}]
    assert word + chat(client, begun).choices[0].message.content == whole


def test_n_and_seed(client, messages):
    def texts(**settings):
        answer = chat(client, messages, temperature=1.5, max_tokens=12, n=3, **settings)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        return [choice.message.content for choice in answer.choices]

    assert len(set(texts(seed=1))) > 1
    assert texts(seed=1) == texts(seed=1)
    assert texts(seed=1) != texts(seed=2)


def test_stop_and_max_tokens(client, messages):
    whole = chat(client, messages).choices[0].message.content
    stop = whole[5:9]
    answer = chat(client, messages, stop=[stop, "never"]).choices[0]
    assert answer.message.content == whole[: whole.index(stop)] and answer.finish_reason == "stop"
    answer = chat(client, messages, max_completion_tokens=2)
    assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 2


def test_chat_logprobs(client, messages):
    [choice] = chat(client, messages, logprobs=True, top_logprobs=3).choices
    tokens = choice.logprobs.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == choice.message.content
    for token in tokens:
        assert len(token.top_logprobs) == 3
        # Greedy: the token is the most probable.
        assert token.logprob == token.top_logprobs[0].logprob <= 0


def test_logit_bias(client, address):
    def complete(**settings):
        return client.completions.create(
            model="cria", prompt="A llama", max_tokens=1, temperature=0, logprobs=0, **settings
        )

    first = complete().choices[0].text
    [token] = tokens(address, first)
    other = complete(logit_bias={str(token): -100}).choices[0].text
    assert other != first
    [wanted] = tokens(address, "q")
    assert complete(logit_bias={str(wanted): 1000}).choices[0].text == "q"


def test_tools_are_offered(client, messages):
    function = {"name": "now", "description": "The time", "parameters": {"type": "object", "properties": {}}}
    tools = [{"type": "function", "function": function}]
    plain = chat(client, messages, max_tokens=1).usage.prompt_tokens
    assert chat(client, messages, max_tokens=1, tools=tools).usage.prompt_tokens > plain + 20
    none = chat(client, messages, max_tokens=1, tools=tools, tool_choice="none")
    assert none.usage.prompt_tokens == plain


def test_completions(client):
    settings = {"model": "cria", "max_tokens": 8, "temperature": 0}
    answer = client.completions.create(prompt=["A llama", "The sun"], **settings)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage.completion_tokens <= 16
    for prompt, choice in zip(["A llama", "The sun"], answer.choices):
        stream = client.completions.create(prompt=prompt, stream=True, **settings)
        assert "".join(chunk.choices[0].text for chunk in stream) == choice.text


def test_embeddings(client, address):
    texts = ["A llama eats grass.", "The sun", "A train is late."]
    answer = client.embeddings.create(model="cria", input=texts)
    assert [one.index for one in answer.data] == [0, 1, 2]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 6
    for text, one in zip(texts, answer.data):
        assert math.isclose(sum(value * value for value in one.embedding), 1, abs_tol=1e-5)
        # The client asks for base64 unless it is told otherwise.
        alone = client.embeddings.create(model="cria", input=text, encoding_format="float")
        assert alone.data[0].embedding == pytest.approx(one.embedding, abs=1e-7)
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        client.embeddings.create(model="cria", input="a", dimensions=3)


def test_prompts_are_scored(client, address):
    ids = tokens(address, "A llama eats grass.")
    answer = client.completions.create(
        model="cria", prompt=[ids, ids[:2]], max_tokens=1, temperature=0, logprobs=2, echo=True
    )
    for given, choice in zip([ids, ids[:2]], answer.choices):
        scores = choice.logprobs
        assert len(scores.tokens) == len(scores.token_logprobs) == len(scores.top_logprobs) == len(given) + 1
        assert scores.token_logprobs[0] is None and scores.top_logprobs[0] is None
        assert choice.text.startswith("A llama eats grass."[: scores.text_offset[len(given) - 1]])
        for token, score, top in zip(scores.tokens[1:], scores.token_logprobs[1:], scores.top_logprobs[1:]):
            assert top[token] == score <= 0
            assert sum(map(math.exp, top.values())) < 1.0001
    # Without a token of its own, for what the prompt is worth.
    answer = client.completions.create(model="cria", prompt=ids, max_tokens=0, logprobs=1, echo=True)
    assert answer.choices[0].text == "A llama eats grass."
    assert len(answer.choices[0].logprobs.tokens) == len(ids)


def test_models(client):
    assert [model.id for model in client.models.list()] == ["cria"]
    assert client.models.retrieve("cria").id == "cria"


@pytest.mark.parametrize(
    "settings, param",
    [
        ({"temperature": -1}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 1_000_000}, "n"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"stop": ["x"] * 65}, "stop"),
        ({"logit_bias": {"1": "much"}}, "logit_bias"),
        ({"extra_body": {"temprature": 1}}, "temprature"),
    ],
)
def test_a_field_at_fault_is_named(client, messages, settings, param):
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, messages, **settings)
    assert caught.value.param == param and param in caught.value.message
    assert caught.value.type == "invalid_request_error"


def test_errors(client, address, messages):
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-4o", messages=messages)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4o")
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, [{"role": "user", "content": "a " * 5000}])
    assert caught.value.code == "context_length_exceeded" and "at most 1024" in caught.value.message
    with pytest.raises(openai.PermissionDeniedError):
        chat(openai.OpenAI(base_url=f"http://{address}/v1", api_key="any", default_headers={"host": "evil.test"}), messages)
