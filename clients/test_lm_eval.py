"""lm-evaluation-harness, on small tasks of our own, held against what `puna score` and the API say of the same tokens."""

import json

import lm_eval
import pytest
from conftest import ROOT, post, puna, tokens
from lm_eval.tasks import TaskManager


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    """The tasks name their data from here."""
    monkeypatch.chdir(ROOT)


def evaluate(model, url, task, concurrent=1, **settings):
    arguments = {"model": "cria", "base_url": url, "num_concurrent": concurrent, "max_retries": 1, "max_length": 1024}
    manager = TaskManager(include_path=str(ROOT / "clients/tasks"), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model=model, model_args=arguments, tasks=[task], task_manager=manager, log_samples=True, **settings
    )
    samples = sorted(found["samples"][task], key=lambda sample: sample["doc_id"])
    assert len(samples) == 4
    return samples, found["results"][task]


def test_log_likelihoods(address, tmp_path):
    samples, result = evaluate("local-completions", f"http://{address}/v1/completions", "llamas_choice")
    right = []
    for sample in samples:
        document = sample["doc"]
        context, expected = tokens(address, document["question"]), []
        for choice in document["choices"]:
            ids = tokens(address, f"{document['question']} {choice}")
            file = tmp_path / "ids.json"
            file.write_text(json.dumps(ids))
            # The first token has no score.
            scores = json.loads(puna("score", "cria", "--ids-file", str(file), "--json"))["logprobs"]
            expected.append(sum(scores[len(context) - 1 :]))
        found = [float(answer[0][0]) for answer in sample["resps"]]
        assert found == pytest.approx(expected, abs=1e-4)
        right.append(max(range(len(expected)), key=expected.__getitem__) == document["answer"])
    assert result["acc,none"] == sum(right) / len(right)


def test_log_likelihoods_in_batches(address):
    url = f"http://{address}/v1/completions"
    alone, _ = evaluate("local-completions", url, "llamas_choice")
    together, _ = evaluate("local-completions", url, "llamas_choice", concurrent=4, batch_size=3)
    assert [sample["resps"] for sample in alone] == [sample["resps"] for sample in together]


def test_generation(address):
    samples, _ = evaluate("local-completions", f"http://{address}/v1/completions", "llamas_words")
    for sample in samples:
        body = {"prompt": tokens(address, sample["doc"]["question"]), "max_tokens": 12, "temperature": 0, "stop": ["."]}
        answer = post(address, "/v1/completions", body)
        assert sample["resps"] == [[answer["choices"][0]["text"]]]


def test_chat(address):
    url = f"http://{address}/v1/chat/completions"
    samples, _ = evaluate("local-chat-completions", url, "llamas_words", apply_chat_template=True)
    for sample in samples:
        messages = [{"role": "user", "content": sample["doc"]["question"]}]
        body = {"messages": messages, "max_tokens": 12, "temperature": 0, "stop": ["."]}
        answer = post(address, "/v1/chat/completions", body)
        assert sample["resps"] == [[answer["choices"][0]["message"]["content"]]]
