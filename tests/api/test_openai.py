"""The official `openai` client against a real server: plain, streamed, logprobs, errors, and clients that leave."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from harness import RunningApi, running_api, wait_for
from openai.types import Completion
from openai.types.chat import ChatCompletionChunk
from scripted_worker import MODEL, Script, ScriptedWorker

from woolly_worker.contract.errors import ContextOverflow, InternalError
from woolly_worker.contract.jobs import ErrorInfo
from woolly_worker.ledger import keys

USER = [{"role": "user", "content": "hello"}]


@pytest.fixture(params=["/v1", "/api/v1/optimized"])
def ai(request: pytest.FixtureRequest, api: RunningApi) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=api.url + request.param, api_key="none", max_retries=0, timeout=20) as client:
        yield client


@pytest.fixture
def ai1(api: RunningApi) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=api.url + "/v1", api_key="none", max_retries=0, timeout=20) as client:
        yield client


def test_completion(ai: openai.OpenAI, worker: ScriptedWorker) -> None:
    script = worker.serve(Script(held_back="!", finish_reason="length"))
    answer = ai.completions.create(model=MODEL, prompt="Once", max_tokens=9, temperature=0, stop=["x", "y"], seed=3)
    assert isinstance(answer, Completion)
    (claim,) = worker.claims
    assert answer.id == f"cmpl-{claim.job_id}"
    assert answer.object == "text_completion"
    assert answer.model == MODEL
    assert answer.choices[0].text == script.text
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].logprobs is None
    assert answer.usage is not None
    assert answer.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": 7,
        "completion_tokens": 4,
        "total_tokens": 11,
        "prompt_tokens_details": {"cached_tokens": 2},
    }
    sampling = claim.request.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.stop, sampling.seed) == (9, 0, ("x", "y"), 3)
    assert claim.request.prompt == "Once"


def test_completion_streamed(ai: openai.OpenAI, worker: ScriptedWorker) -> None:
    script = worker.serve(Script(held_back="!"))
    chunks = list(ai.completions.create(model=MODEL, prompt=[1, 2, 3], stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == script.text
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 4 + ["stop"]
    assert {chunk.id for chunk in chunks} == {f"cmpl-{worker.claims[0].job_id}"}
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)
    assert worker.claims[0].request.prompt == (1, 2, 3)
    assert worker.claims[0].request.sampling.max_tokens == 16  # OpenAI's default for this route


def test_chat(ai: openai.OpenAI, worker: ScriptedWorker) -> None:
    script = worker.serve(Script(held_back="!"))
    answer = ai.chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind."}]},
            {"role": "user", "content": "hello", "name": "ann"},
            {"role": "assistant", "content": "hi", "tool_calls": []},
            {"role": "user", "content": "again"},
        ],
        max_completion_tokens=12,
        user="ann",
        metadata={"trace": "7"},
        logit_bias={"42": -100},
        extra_body={"top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1, "ignore_eos": True, "priority": 2},
    )
    (claim,) = worker.claims
    assert answer.id == f"chatcmpl-{claim.job_id}"
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == script.text
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 11
    request = claim.request
    assert request.messages is not None
    assert [message.model_dump(exclude_none=True) for message in request.messages] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "hello", "name": "ann"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "again"},
    ]
    sampling = request.sampling
    assert sampling.max_tokens == 12
    assert sampling.logit_bias == {42: -100.0}
    assert (sampling.top_k, sampling.min_p, sampling.repetition_penalty) == (40, 0.05, 1.1)
    assert sampling.ignore_eos
    assert (request.tenant, request.priority, request.metadata) == ("ann", 2, {"trace": "7"})


def test_an_answer_can_be_sent_back(ai1: openai.OpenAI, worker: ScriptedWorker) -> None:
    """Clients append the message they got, with all of its empty fields."""
    worker.serve()
    message = ai1.chat.completions.create(model=MODEL, messages=USER).choices[0].message
    ai1.chat.completions.create(model=MODEL, messages=[*USER, message.model_dump(), *USER])  # type: ignore[list-item]
    ai1.chat.completions.create(model=MODEL, messages=[*USER, message, *USER])  # type: ignore[list-item]
    assert len(worker.claims) == 3


def test_chat_streamed_with_usage(ai: openai.OpenAI, worker: ScriptedWorker) -> None:
    script = worker.serve(Script(pieces=(" one", "", " two"), held_back=" three"))
    chunks: list[ChatCompletionChunk] = list(
        ai.chat.completions.create(model=MODEL, messages=USER, stream=True, stream_options={"include_usage": True})
    )
    *content, last = chunks
    assert content[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in content) == script.text
    assert [chunk.choices[0].finish_reason for chunk in content] == [None] * (len(content) - 1) + ["stop"]
    assert all(chunk.usage is None and "usage" in chunk.model_fields_set for chunk in content)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 3
    assert {chunk.id for chunk in chunks} == {f"chatcmpl-{worker.claims[0].job_id}"}
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}


def test_chat_logprobs(ai1: openai.OpenAI, worker: ScriptedWorker) -> None:
    worker.serve()
    options = {"model": MODEL, "messages": USER, "logprobs": True, "top_logprobs": 2}
    whole = ai1.chat.completions.create(**options)  # type: ignore[call-overload]
    content = whole.choices[0].logprobs.content
    assert [token.token for token in content] == [" Once", " upon", " a", " time"]
    assert [token.logprob for token in content] == [-0.25, -0.5, -0.75, -1.0]
    assert [top.token for top in content[0].top_logprobs] == [" Once", "alt0"]
    assert bytes(content[0].bytes) == b" Once"
    chunks = list(ai1.chat.completions.create(**options, stream=True))  # type: ignore[call-overload]
    streamed = [
        token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content or []
    ]
    assert streamed == content


def test_completion_logprobs(ai1: openai.OpenAI, worker: ScriptedWorker) -> None:
    worker.serve()
    whole = ai1.completions.create(model=MODEL, prompt="x", logprobs=2).choices[0].logprobs
    assert whole is not None
    assert whole.tokens == [" Once", " upon", " a", " time"]
    assert whole.token_logprobs == [-0.25, -0.5, -0.75, -1.0]
    assert whole.text_offset == [0, 5, 10, 12]
    assert whole.top_logprobs is not None
    assert whole.top_logprobs[0] == {" Once": -0.25, "alt0": -5.0}
    chunks = list(ai1.completions.create(model=MODEL, prompt="x", logprobs=2, stream=True))
    parts = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices[0].logprobs]
    assert [offset for part in parts for offset in part.text_offset or []] == [0, 5, 10, 12]


def test_logprobs_name_the_chosen_token_though_its_text_is_held_back(
    ai1: openai.OpenAI, worker: ScriptedWorker
) -> None:
    """The worker reports the chosen token behind the best ones; what it adds to the text is another matter."""
    worker.serve(Script(pieces=("", " upon"), tokens=(" Once", " upon"), chosen_last=True))
    options = {"model": MODEL, "messages": USER, "logprobs": True}
    for n_top in (0, 1, 2):
        answer = ai1.chat.completions.create(**options, top_logprobs=n_top)  # type: ignore[call-overload]
        content = answer.choices[0].logprobs.content
        assert answer.choices[0].message.content == " upon"
        assert [token.token for token in content] == [" Once", " upon"]
        assert [len(token.top_logprobs) for token in content] == [n_top, n_top]
    chunks = list(ai1.chat.completions.create(**options, stream=True))  # type: ignore[call-overload]
    parts = [chunk.choices[0].logprobs.content[0].token for chunk in chunks if chunk.choices[0].logprobs]
    assert parts == [" Once", " upon"]


@pytest.mark.parametrize(
    "options",
    [
        {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "n": 1, "store": False},
        {"parallel_tool_calls": True, "service_tier": "auto", "modalities": ["text"], "top_logprobs": None},
        {"temperature": None, "stop": None, "seed": None, "max_tokens": None, "logit_bias": None, "stream": False},
    ],
)
def test_neutral_values_are_taken(ai1: openai.OpenAI, worker: ScriptedWorker, options: dict[str, object]) -> None:
    worker.serve()
    assert ai1.chat.completions.create(model=MODEL, messages=USER, extra_body=options).choices


CHAT_REFUSALS: list[tuple[dict[str, object], str]] = [
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"n": 2}, "n"),
    ({"n": True}, "n"),
    ({"modalities": ["audio"]}, "modalities"),
    ({"reasoning_effort": "high"}, "reasoning_effort"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "max_completion_tokens"),
    ({"temperature": -0.5}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"max_tokens": True}, "max_tokens"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"top_kk": 3}, "top_kk"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages.0.content",
    ),
    ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": "x", "mood": "good"}]}, "messages.0.mood"),
    ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]}, "messages.0.tool_calls"),
]


@pytest.mark.parametrize(("options", "param"), CHAT_REFUSALS)
def test_chat_refuses_by_name(
    ai1: openai.OpenAI, worker: ScriptedWorker, options: dict[str, object], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ai1.chat.completions.create(model=MODEL, messages=USER, extra_body=options)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert param in str(caught.value)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"echo": True}, "echo"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"n": 3}, "n"),
        ({"prompt": ["one", "two"]}, "prompt"),
        ({"prompt": [[1], [2]]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"messages": USER}, "messages"),
    ],
)
def test_completions_refuse_by_name(
    ai1: openai.OpenAI, worker: ScriptedWorker, options: dict[str, object], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ai1.completions.create(model=MODEL, prompt="x", extra_body=options)  # type: ignore[call-overload]
    assert caught.value.param == param


def test_a_list_of_one_prompt(ai1: openai.OpenAI, worker: ScriptedWorker) -> None:
    worker.serve()
    ai1.completions.create(model=MODEL, prompt=["only"])
    ai1.completions.create(model=MODEL, prompt=[[4, 5]])
    assert [claim.request.prompt for claim in worker.claims] == ["only", (4, 5)]


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_model_is_not_found(ai1: openai.OpenAI, worker: ScriptedWorker, stream: bool) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        ai1.completions.create(model="gpt-9", prompt="x", stream=stream)
    assert caught.value.code == "model_not_found"
    assert caught.value.body["details"]["available_models"] == [MODEL]  # type: ignore[index]
    assert caught.value.request_id


@pytest.mark.parametrize("stream", [False, True])
def test_a_job_that_fails_before_its_first_token_is_an_http_error(
    ai1: openai.OpenAI, worker: ScriptedWorker, stream: bool
) -> None:
    error = ErrorInfo.of(ContextOverflow("prompt has 600 tokens, n_ctx is 512", param="prompt"))
    worker.serve(Script(pieces=(), error=error))
    with pytest.raises(openai.BadRequestError) as caught:
        ai1.completions.create(model=MODEL, prompt="x", stream=stream)
    assert caught.value.code == "context_length_exceeded"
    assert "600" in str(caught.value)
    assert "512" in str(caught.value)
    assert worker.cancelled == []


def test_a_job_that_fails_later_is_an_error_in_the_stream(ai1: openai.OpenAI, worker: ScriptedWorker) -> None:
    worker.serve(Script(error=ErrorInfo.of(InternalError("a step failed"))))
    seen = []

    def read() -> None:
        for chunk in ai1.completions.create(model=MODEL, prompt="x", stream=True):
            seen.append(chunk.choices[0].text)

    with pytest.raises(openai.APIError) as caught:
        read()
    assert seen == [" Once", " upon", " a", " time"]
    assert caught.value.code == "internal_error"


def test_our_bug_is_not_tried_again_by_the_client(api: RunningApi, worker: ScriptedWorker) -> None:
    worker.serve(Script(error=ErrorInfo.of(InternalError("a step failed"))))
    with (
        openai.OpenAI(base_url=api.url + "/v1", api_key="none", timeout=20) as patient,
        pytest.raises(openai.InternalServerError),
    ):
        patient.completions.create(model=MODEL, prompt="x")
    assert len(worker.claims) == 1


def test_a_stream_opens_with_heartbeats_when_tokens_are_late(http: httpx.Client, worker: ScriptedWorker) -> None:
    """Nobody serves yet: within `first_byte_seconds` the first byte comes, then comments, then the answer."""
    body = {"model": MODEL, "prompt": "x", "stream": True}
    lines = []
    with http.stream("POST", "/v1/completions", json=body) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            lines.append(line)
            if lines.count(": heartbeat") == 2 and not worker._threads:
                worker.serve()
    assert lines.index(": heartbeat") < lines.index(": running prefill 3/7")
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    assert "".join(json.loads(item)["choices"][0]["text"] for item in data[:-1]) == " Once upon a time"


def test_who_leaves_a_stream_cancels_the_job(api: RunningApi, ai1: openai.OpenAI, worker: ScriptedWorker) -> None:
    worker.serve(Script(permits=threading.Semaphore(2)))
    with ai1.completions.create(model=MODEL, prompt="x", stream=True) as stream:
        assert next(iter(stream)).choices[0].text == " Once"
    wait_for(lambda: worker.cancelled)
    assert worker.cancelled == [worker.claims[0].job_id]
    assert api.metric("woolly_api_jobs_abandoned_total") == 1
    assert api.metric("woolly_api_streams_open") == 0
    wait_for(lambda: worker.ledger.client.pubsub_channels() == [])  # no subscription is left behind


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_before_the_first_byte_cancels_the_job(
    api: RunningApi, worker: ScriptedWorker, stream: bool
) -> None:
    worker.serve(Script(permits=threading.Semaphore(0)))
    with httpx.Client(base_url=api.url, timeout=httpx.Timeout(5, read=0.3)) as hasty, pytest.raises(httpx.ReadTimeout):
        hasty.post("/v1/chat/completions", json={"model": MODEL, "messages": USER, "stream": stream})
    wait_for(lambda: worker.cancelled)
    assert api.metric("woolly_api_jobs_abandoned_total") == 1


def test_a_queued_job_is_cancelled_too(api: RunningApi, worker: ScriptedWorker) -> None:
    with httpx.Client(base_url=api.url, timeout=httpx.Timeout(5, read=0.3)) as hasty:
        with pytest.raises(httpx.ReadTimeout):
            hasty.post("/v1/completions", json={"model": MODEL, "prompt": "x"})
        wait_for(lambda: hasty.get("/v1/jobs").json()["jobs"][0]["state"] == "cancelled")


def test_finished_answers_cancel_nothing(api: RunningApi, ai1: openai.OpenAI, worker: ScriptedWorker) -> None:
    worker.serve()
    ai1.completions.create(model=MODEL, prompt="x")
    list(ai1.completions.create(model=MODEL, prompt="x", stream=True))
    assert api.metric("woolly_api_jobs_abandoned_total") == 0
    assert worker.cancelled == []


def test_a_cancelled_completion_is_told(http: httpx.Client, ai1: openai.OpenAI, worker: ScriptedWorker) -> None:
    worker.serve(Script(permits=threading.Semaphore(0)))

    def cancel_it() -> None:
        wait_for(lambda: worker.claims)
        http.post(f"/v1/jobs/{worker.claims[0].job_id}/cancel")

    thread = threading.Thread(target=cancel_it)
    thread.start()
    with pytest.raises(openai.APIStatusError) as caught:
        ai1.completions.create(model=MODEL, prompt="x")
    thread.join()
    assert caught.value.status_code == 499
    assert caught.value.code == "cancelled"


def test_models(ai1: openai.OpenAI, worker: ScriptedWorker) -> None:
    worker.announce("org/sleeping", alive=False)
    models = {model.id: model for model in ai1.models.list()}
    assert set(models) == {"org/sleeping", MODEL}
    assert models[MODEL].object == "model"
    assert models[MODEL].owned_by == "woolly"
    assert models[MODEL].created > 1_600_000_000
    assert models[MODEL].workers == 1  # type: ignore[attr-defined]
    assert models["org/sleeping"].workers == 0  # type: ignore[attr-defined]
    assert models[MODEL].woolly["n_ctx"] == 512  # type: ignore[attr-defined]
    assert "path" not in models[MODEL].woolly  # type: ignore[attr-defined]
    assert ai1.models.retrieve("org/sleeping").id == "org/sleeping"
    with pytest.raises(openai.NotFoundError) as caught:
        ai1.models.retrieve("none")
    assert caught.value.code == "model_not_found"


def stop_under_a_stream(
    api: RunningApi, worker: ScriptedWorker, between: Callable[[], object] = lambda: None
) -> tuple[list[str], dict[str, Any]]:
    """The texts that came, and the error that ended the stream of a server that stops after the first token."""
    body = {"model": MODEL, "prompt": "x", "stream": True}
    datas: list[dict[str, Any]] = []
    with (
        httpx.Client(base_url=api.url, timeout=20) as http,
        http.stream("POST", "/v1/completions", json=body) as response,
    ):
        for line in response.iter_lines():
            if line.startswith("data: "):
                datas.append(json.loads(line.removeprefix("data: ")))
                if len(datas) == 1:
                    api.server.should_exit = True
                    wait_for(api.services.stopping.is_set)
                    between()
    return [data["choices"][0]["text"] for data in datas[:-1]], datas[-1]["error"]


def test_a_server_that_stops_ends_the_stream_of_a_job_that_went_back_to_the_queue(
    redis_url: str, worker: ScriptedWorker
) -> None:
    worker.serve(Script(permits=threading.Semaphore(1)))

    def give_back() -> None:
        """As a worker does that is drained."""
        claim = worker.claims[0]
        worker.ledger.release(claim.job_id, claim.fence, MODEL)

    started = time.monotonic()
    with running_api(redis_url, shutdown_grace_seconds=60) as api:
        texts, error = stop_under_a_stream(api, worker, give_back)
    assert time.monotonic() - started < 20
    assert texts == [" Once"]
    assert (error["status"], error["code"]) == (503, "overloaded")
    wait_for(lambda: worker.ledger.view(worker.claims[0].job_id).state == "cancelled")


def test_a_server_that_stops_ends_what_is_left_after_the_grace_time(redis_url: str, worker: ScriptedWorker) -> None:
    worker.serve(Script(permits=threading.Semaphore(1)))
    with running_api(redis_url, shutdown_grace_seconds=2) as api:
        texts, error = stop_under_a_stream(api, worker)
    assert texts == [" Once"]
    assert (error["status"], error["code"]) == (503, "overloaded")
    wait_for(lambda: worker.cancelled)


def test_a_server_that_stops_lets_running_completions_finish(redis_url: str, worker: ScriptedWorker) -> None:
    script = worker.serve(Script(permits=threading.Semaphore(1)))
    assert script.permits is not None
    with (
        running_api(redis_url, shutdown_grace_seconds=30) as api,
        openai.OpenAI(base_url=api.url + "/v1", api_key="none", max_retries=0, timeout=20) as ai,
    ):
        texts = []
        for chunk in ai.completions.create(model=MODEL, prompt="x", stream=True):
            texts.append(chunk.choices[0].text)
            if len(texts) == 1:
                api.server.should_exit = True
                wait_for(api.services.stopping.is_set)
                script.permits.release(10)
    assert "".join(texts) == script.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_that_stops_refuses_what_waits_before_its_first_byte(
    redis_url: str, worker: ScriptedWorker, stream: bool
) -> None:
    answers: list[httpx.Response] = []
    with (
        running_api(redis_url, shutdown_grace_seconds=30, first_byte_seconds=30) as api,
        httpx.Client(base_url=api.url, timeout=20) as http,
    ):
        body = {"model": MODEL, "prompt": "x", "stream": stream}
        asking = threading.Thread(target=lambda: answers.append(http.post("/v1/completions", json=body)))
        asking.start()
        wait_for(lambda: worker.ledger.client.pubsub_channels())
        time.sleep(0.2)  # the state it starts with is read behind the subscription
        api.server.should_exit = True
        asking.join(10)
    (answer,) = answers
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    wait_for(lambda: worker.ledger.client.zrange(keys.OPEN_JOBS, 0, -1) == [])  # it does not run for nobody
