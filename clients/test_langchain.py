"""LangChain's client of OpenAI's API: invoke, stream, batch."""

import langchain_openai
import pytest


@pytest.fixture
def model(address):
    return langchain_openai.ChatOpenAI(base_url=f"http://{address}/v1", api_key="any", model="cria", temperature=0)


def test_invoke(model, messages):
    answer = model.invoke([("system", "Be brief."), ("human", messages[0]["content"])])
    assert answer.text and answer.response_metadata["finish_reason"] == "stop"
    assert answer.usage_metadata["output_tokens"] > 1
    assert "cria" in model.invoke(messages[0]["content"]).text


def test_stream(model, messages):
    pieces = list(model.stream(messages))
    assert len(pieces) > 3
    assert "".join(piece.text for piece in pieces) == model.invoke(messages).text


def test_batch(model, messages):
    questions = [messages, [{"role": "user", "content": "What does a llama eat?"}], messages]
    answers = model.batch(questions)
    assert [answer.text for answer in answers] == [model.invoke(question).text for question in questions]
    assert answers[0].text == answers[2].text


def test_bound_settings(model, messages):
    answer = model.bind(stop=["cria"], logprobs=True).invoke(messages)
    assert "cria" not in answer.text
    assert "".join(token["token"] for token in answer.response_metadata["logprobs"]["content"]).startswith(answer.text)
