"""`woolly submit|watch|jobs|cancel`, as a person types them, through a real API. The worker plays a script."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from harness import RunningApi, running_api, wait_for
from scripted_worker import MODEL, Script, ScriptedWorker

from woolly_api.cli import main
from woolly_api.client import WoollyClient
from woolly_worker.contract.errors import ContextOverflow
from woolly_worker.contract.jobs import ErrorInfo
from woolly_worker.ledger.server import free_port


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Cli = Callable[..., Result]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    def run(*args: str, api: str | None = None) -> Result:
        monkeypatch.setattr("sys.argv", ["woolly", *args, *(["--api", api] if api else [])])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int | None)
        return Result(ended.value.code or 0, captured.out, captured.err)

    return run


def test_submit_prints_the_id_and_watch_streams_the_text(cli: Cli, api: RunningApi, worker: ScriptedWorker) -> None:
    worker.serve()
    submitted = cli("submit", "Tell me", "--max-tokens", "8", "--metadata", "for=test", api=api.url)
    assert submitted.code == 0
    assert submitted.err == ""
    job_id = submitted.out.strip()

    watched = cli("watch", job_id, api=api.url)
    assert (watched.code, watched.out) == (0, " Once upon a time")
    assert "7 + 4 tokens" in watched.err

    again = cli("watch", job_id, "--json", api=api.url)
    events = [json.loads(line) for line in again.out.splitlines()]
    assert [event["type"] for event in events if event["type"] != "state"] == ["token"] * 4 + ["done"]
    (claim,) = worker.claims
    assert (claim.request.sampling.max_tokens, claim.request.metadata) == (8, {"for": "test"})


def test_every_sampling_option_reaches_the_worker(cli: Cli, api: RunningApi, worker: ScriptedWorker) -> None:
    worker.serve()
    options = {
        "--temperature": "0.5",
        "--top-k": "40",
        "--top-p": "0.9",
        "--min-p": "0.05",
        "--repetition-penalty": "1.1",
        "--presence-penalty": "0.2",
        "--frequency-penalty": "-0.3",
        "--seed": "7",
        "--max-tokens": "9",
        "--stop": "end",
        "--logit-bias": "12=-100",
    }
    words = [word for pair in options.items() for word in pair]
    assert cli("submit", "--watch", "Tell me", *words, "--stop", "fin", "--ignore-eos", api=api.url).code == 0
    (claim,) = worker.claims
    assert claim.request.sampling.model_dump(exclude_none=True) == {
        "temperature": 0.5,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.05,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": -0.3,
        "seed": 7,
        "max_tokens": 9,
        "stop": ("end", "fin"),
        "logit_bias": {12: -100.0},
        "ignore_eos": True,
    }


def test_chat_sends_messages(cli: Cli, api: RunningApi, worker: ScriptedWorker) -> None:
    worker.serve()
    result = cli("submit", "--watch", "--chat", "--system", "Be brief.", "Hello", api=api.url)
    assert (result.code, result.out) == (0, " Once upon a time")
    (claim,) = worker.claims
    assert claim.request.messages is not None
    assert [(message.role, message.content) for message in claim.request.messages] == [
        ("system", "Be brief."),
        ("user", "Hello"),
    ]


def test_the_prompt_may_come_from_standard_input(
    cli: Cli, api: RunningApi, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    worker.serve()
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe"))
    assert cli("submit", "--watch", "-", api=api.url).code == 0
    (claim,) = worker.claims
    assert claim.request.prompt == "from a pipe"


def test_a_failed_job_is_a_line_and_an_exit_code(cli: Cli, api: RunningApi, worker: ScriptedWorker) -> None:
    error = ErrorInfo.of(ContextOverflow("prompt has 600 tokens, n_ctx is 512"))
    worker.serve(Script(pieces=(" Once",), error=error))
    result = cli("submit", "--watch", "Tell me", api=api.url)
    assert (result.code, result.out) == (1, " Once")
    assert result.err.splitlines()[-1].endswith("failed: prompt has 600 tokens, n_ctx is 512")
    assert "Traceback" not in result.err


def test_cancel_ends_a_running_job_and_jobs_lists_it(
    cli: Cli, api: RunningApi, client: WoollyClient, worker: ScriptedWorker
) -> None:
    worker.serve(Script(permits=threading.Semaphore(1)))
    job_id = cli("submit", "Tell me", api=api.url).out.strip()
    wait_for(lambda: client.get(job_id).last_seq == 1)
    assert json.loads(cli("jobs", "--state", "running", "--json", api=api.url).out)[0]["id"] == job_id

    cancelled = cli("cancel", job_id, api=api.url)
    assert (cancelled.code, cancelled.out) == (0, f"{job_id} cancelling\n")
    listed = cli("jobs", api=api.url)
    assert job_id in listed.out
    assert MODEL in listed.out


def test_the_same_key_again_is_the_same_job(cli: Cli, api: RunningApi, worker: ScriptedWorker) -> None:
    keyed = ["submit", "Tell me", "--idempotency-key", "night-7"]
    assert cli(*keyed, api=api.url).out == cli(*keyed, api=api.url).out
    other = cli("submit", "Tell me more", "--idempotency-key", "night-7", api=api.url)
    assert other.code == 2
    assert "another body" in other.err
    strange = cli("submit", "Tell me", "--idempotency-key", "night 7", api=api.url)
    assert (strange.code, strange.out) == (2, "")
    assert cli("submit", "Tell me", api=api.url).out != cli("submit", "Tell me", api=api.url).out


def test_jobs_says_what_a_waiting_one_waits_for(cli: Cli, api: RunningApi, worker: ScriptedWorker) -> None:
    for _ in range(2):
        cli("submit", "Tell me", api=api.url)
    listed = cli("jobs", api=api.url).out
    assert "queued (0 before it, about 0 s)" in listed
    assert "queued (1 before it)" in listed  # nothing has been measured


def test_no_jobs_is_said(cli: Cli, api: RunningApi) -> None:
    result = cli("jobs", api=api.url)
    assert (result.code, result.out, result.err) == (0, "", "woolly: no jobs\n")


def test_loopback_is_not_reached_through_a_proxy(cli: Cli, api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    assert cli("jobs", api=api.url).err == "woolly: no jobs\n"


def test_without_a_model_there_is_nothing_to_submit_to(cli: Cli, api: RunningApi) -> None:
    result = cli("submit", "Tell me", api=api.url)
    assert result.code == 1
    assert result.err == "woolly: no worker has announced a model yet; start one with `woolly worker --model FILE`\n"


def test_among_several_models_one_must_be_chosen(cli: Cli, api: RunningApi, worker: ScriptedWorker) -> None:
    worker.announce("other")
    worker.serve()
    result = cli("submit", "Tell me", api=api.url)
    assert result.code == 2
    assert result.err == "woolly: several models are served, choose with --model: other, tiny\n"
    assert cli("submit", "--watch", "--model", "tiny", "Tell me", api=api.url).code == 0


def test_a_model_with_a_worker_is_preferred_and_a_wait_is_told(
    cli: Cli, api: RunningApi, worker: ScriptedWorker
) -> None:
    worker.announce("asleep", alive=False)
    worker.serve()
    assert cli("submit", "--watch", "Tell me", api=api.url).out == " Once upon a time"
    waiting = cli("submit", "--model", "asleep", "Tell me", api=api.url)
    assert waiting.code == 0
    assert waiting.err == "woolly: no worker serves asleep at the moment; the job waits for one\n"


@pytest.mark.parametrize(
    "command", [["submit", "Tell me"], ["watch", "nix"], ["jobs"], ["cancel", "nix"]], ids=lambda words: words[0]
)
def test_no_server_is_one_line(cli: Cli, command: list[str]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    result = cli(*command, api=url)
    assert (result.code, result.out) == (1, "")
    (line,) = result.err.splitlines()
    assert url in line


def test_a_full_queue_is_told_with_the_time_to_wait(cli: Cli, redis_url: str, worker: ScriptedWorker) -> None:
    with running_api(redis_url, max_queued_jobs=1) as api:
        assert cli("submit", "Tell me", api=api.url).code == 0
        full = cli("submit", "Tell me", api=api.url)
    said = "woolly: 1 job of model 'tiny' queued, the limit is 1; try again in 10 s\n"
    assert (full.code, full.out, full.err) == (1, "", said)


@pytest.mark.parametrize("command", ["watch", "cancel"])
def test_an_unknown_job_is_one_line(cli: Cli, api: RunningApi, command: str) -> None:
    result = cli(command, "nix", api=api.url)
    assert (result.code, result.out, result.err) == (2, "", "woolly: no job 'nix'\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--top-p", "2"], "--top-p: Input should be less than or equal to 1"),
        (["--logit-bias", "x=1"], "--logit-bias: 'x=1' is not of the form TOKEN_ID=X"),
        (["--metadata", "x"], "--metadata: 'x' is not of the form KEY=TEXT"),
        (["--system", "x"], "--system needs --chat"),
        (["--tenant", ""], "tenant: String should have at least 1 character"),
    ],
)
def test_a_wrong_option_is_one_line(
    cli: Cli, api: RunningApi, worker: ScriptedWorker, options: list[str], said: str
) -> None:
    result = cli("submit", "Tell me", *options, api=api.url)
    assert (result.code, result.out, result.err) == (2, "", f"woolly: {said}\n")
