"""The command line as a person meets it: help, versions, model files, and failures that are one line each."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from typer.testing import CliRunner

from woolly_api.cli import app
from woolly_api.cli.common import human_bytes, printable
from woolly_api.cli.environment import known_settings
from woolly_worker.ledger.server import free_port

N_VOCAB = 3 + 256
PATIENCE_S = 280  # the first command that loads a model compiles its kernels, on a machine that has other work
COMMANDS = sorted(command.name or command.callback.__name__ for command in app.registered_commands if command.callback)


def woolly(*args: str, **env: str) -> "subprocess.CompletedProcess[str]":
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("WOOLLY_")}
    return subprocess.run(
        [sys.executable, "-m", "woolly_api.cli", *args],
        env={**inherited, "COLUMNS": "160", "NO_COLOR": "1", **env},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def but_progress(text: str) -> str:
    """What standard error says beside how far it has come, which a busy machine is told after some seconds."""
    return re.sub(r"^woolly: [a-z ]+ (\.\.\.|\d+%)\n", "", text, flags=re.MULTILINE)


def help_of(command: str) -> str:
    """Without a process: nothing of the command runs, and there are many commands."""
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "160", "NO_COLOR": "1"})
    assert result.exit_code == 0
    return result.stdout


def one_line(result: "subprocess.CompletedProcess[str]") -> str:
    """The only line of standard error; nothing was printed as a result."""
    assert result.stdout == ""
    (line,) = but_progress(result.stderr).splitlines()
    return line


def write_model(path: Path, *, architecture: str = "llama", name: str = "fox", kind: str = "Q8_0") -> Path:
    """A one-layer model with 32 dimensions and a vocabulary of bytes; its weights mean nothing."""
    writer = GGUFWriter(path, architecture)
    writer.add_name(name)
    writer.add_context_length(100)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))])
    writer.add_token_scores([0.0] * N_VOCAB)
    writer.add_token_types([2, 3, 3, *[6] * 256])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    ones = np.ones(32, np.float32)
    writer.add_tensor("output_norm.weight", ones)
    writer.add_tensor("blk.0.attn_norm.weight", ones)
    writer.add_tensor("blk.0.ffn_norm.weight", ones)
    shapes = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32)}
    shapes |= {"ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64)}
    named = {f"blk.0.{name}.weight": shape for name, shape in shapes.items()} | {"token_embd.weight": (N_VOCAB, 32)}
    quant = GGMLQuantizationType[kind]
    for tensor, shape in named.items():
        writer.add_tensor(tensor, quantize(np.ones(shape, np.float32), quant), raw_dtype=quant)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "fox.gguf")


def test_the_version_is_the_packages() -> None:
    result = woolly("--version")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.fullmatch(r"woolly \d+\.\d+\.\d+\n", result.stdout)


def test_the_commands_are_listed_with_what_they_are_for() -> None:
    result = woolly("--help")
    assert result.returncode == 0
    for command in COMMANDS:
        assert re.search(rf"│ {command}\s+[A-Z]", result.stdout), command


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_that_the_command_understands(command: str) -> None:
    text = help_of(command)
    examples = re.findall(rf"^ (woolly {command}.*?) *$", text, re.MULTILINE)
    assert examples, text
    for example in examples:
        for option in re.findall(r" (--?[a-z-]+)", re.sub('"[^"]*"', "", example)):
            assert re.search(rf" {option}\b", text.replace(example, "")), option


@pytest.mark.parametrize("command", ["watch", "cancel"])
def test_help_shows_an_id_as_ids_are(command: str) -> None:
    assert re.search(rf"woolly {command} [0-9a-f]{{32}}\b", help_of(command))


@pytest.mark.parametrize("command", ["submit", "generate", "demo"])
def test_a_prompt_that_is_not_text_is_one_line(command: str, model: Path) -> None:
    options = ["-m", str(model)] if command == "generate" else []
    result = woolly(command, *options, "a\udcff")  # the byte FF, as a shell may give it
    assert result.returncode == 2
    assert one_line(result) == "woolly: the prompt is not valid UTF-8"


@pytest.mark.parametrize("encoding", ["utf-8:strict", "utf-8:surrogateescape"])
def test_a_piped_prompt_that_is_not_text_is_one_line(encoding: str) -> None:
    words = [sys.executable, "-m", "woolly_api.cli", "submit", "-"]
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    result = subprocess.run(words, input=b"a\xff", env=env, capture_output=True, timeout=PATIENCE_S)
    assert (result.returncode, result.stdout, result.stderr) == (2, b"", b"woolly: the prompt is not valid UTF-8\n")


def test_a_system_message_that_is_not_text_is_one_line() -> None:
    result = woolly("submit", "--chat", "Hi", "--system", "a\udcff")
    assert result.returncode == 2
    assert one_line(result) == "woolly: the system message is not valid UTF-8"


def test_no_command_at_all_is_help() -> None:
    assert "Usage: woolly" in woolly().stdout


def test_an_unknown_command_is_named() -> None:
    result = woolly("generat")
    assert result.returncode == 2
    assert "generat" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "nix.gguf"],
        ["generate", "-m", "nix.gguf", "Hello"],
        ["worker", "-m", "nix.gguf"],
        ["up", "-m", "nix.gguf"],
        ["demo", "-m", "nix.gguf"],
    ],
    ids=lambda words: words[0],
)
def test_a_missing_model_is_one_line(words: list[str]) -> None:
    result = woolly(*words)
    assert result.returncode == 2
    assert one_line(result) == "woolly: no model file nix.gguf"


@pytest.mark.parametrize("command", ["inspect", "generate", "worker"])
def test_a_broken_model_is_one_line_that_names_it(tmp_path: Path, command: str, redis_url: str) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF\x03\x00\x00\x00" + b"\xff" * 100)
    words = {"inspect": [str(path)], "generate": ["-m", str(path), "Hello"], "worker": ["-m", str(path)]}
    result = woolly(command, *words[command], WOOLLY_REDIS_URL=redis_url, WOOLLY_LOG_LEVEL="error")
    assert result.returncode == 2
    assert one_line(result).startswith("woolly: broken.gguf: ")


def test_a_worker_logs_in_the_format_that_was_asked_for(tmp_path: Path, redis_url: str) -> None:
    path = write_model(tmp_path / "other.gguf", architecture="mystery")
    result = woolly("worker", "-m", str(path), "--redis", redis_url, "--log-format", "json")
    *lines, failure = result.stderr.splitlines()
    assert "starting" in [json.loads(line)["event"] for line in lines]
    assert failure.startswith("woolly: ")


def test_an_api_logs_in_the_format_that_was_asked_for(redis_url: str) -> None:
    words = ["-m", "woolly_api.cli", "api", "--port", "0", "--redis", redis_url, "--log-format", "json"]
    with subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True) as api:
        assert api.stderr is not None
        line = api.stderr.readline()
        api.terminate()
    assert json.loads(line)["level"] == "info"


def test_every_corrupt_file_is_one_line(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from woolly_api.cli import main

    files = sorted((shared_data / "corrupt-gguf").glob("*.gguf"))
    assert len(files) > 30
    codes: dict[str, tuple[object, int, bool]] = {}
    for path in files:
        sys.argv = ["woolly", "inspect", str(path)]
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        lines = captured.err.splitlines()
        # A well-formed file of a kind that is not supported is described, with the reason.
        described = "runs here" in captured.out and re.search(r"runs here +no: ", captured.out) is not None
        codes[path.name] = (ended.value.code or 0, len(lines), described)
    assert codes.pop("00-valid.gguf")[0] == 0
    assert {name: seen for name, seen in codes.items() if seen not in [(2, 1, False), (0, 0, True)]} == {}


def test_a_setting_out_of_range_names_its_variable(model: Path, redis_url: str) -> None:
    result = woolly("worker", "-m", str(model), WOOLLY_REDIS_URL=redis_url, WOOLLY_SLOTS="-1")
    assert result.returncode == 2
    assert one_line(result) == "woolly: WOOLLY_SLOTS: Input should be greater than 0"
    result = woolly("api", WOOLLY_API_PORT="x")
    assert result.returncode == 2
    assert one_line(result).startswith("woolly: WOOLLY_API_PORT: ")


def test_a_worker_without_redis_is_one_line(model: Path) -> None:
    result = woolly("worker", "-m", str(model), "--redis", "redis://127.0.0.1:1/0")
    assert result.returncode == 1
    assert "127.0.0.1:1" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_inspect_shows_sizes_types_tokenizer_and_memory(model: Path) -> None:
    result = woolly("inspect", str(model), "--ctx", "64")
    assert (result.returncode, result.stderr) == (0, "")
    text = result.stdout
    assert "fox" in text
    assert re.search(r"architecture +llama", text)
    assert re.search(
        r"n_layer 1, n_embd 32, n_head 4, n_head_kv 2, n_ff 64, n_ctx_train 100, head_dim 8, n_vocab 259", text
    )
    # Two blocks of 32 positions, of 2 heads with 8 numbers each, padded to 16, for keys and values, of 2 bytes.
    assert f"{human_bytes(64 * 2 * 16 * 2 * 2)} as f16" in text
    assert re.search(r"chat template +no", text)
    assert re.search(r"runs here +yes", text)
    assert re.search(r"Q8_0 +8 +17,504 +18\.2 KiB +98\.0% +yes", text)
    assert re.search(r"F32 +3 +96 +384 B +2\.0% +yes", text)


def test_inspect_for_machines(model: Path) -> None:
    report: dict[str, Any] = json.loads(woolly("inspect", str(model), "--json").stdout)
    assert report["architecture"] == "llama"
    assert report["sizes"]["n_head_kv"] == 2
    # 100 tokens take four blocks of 32. Heads of 8 numbers are padded to 16 floats, or to one group of 32 integers.
    per_token = {"f16": 4 * 32, "f32": 4 * 64, "q8_0": 4 * 34, "q4_0": 4 * 18}
    expected = {f"bytes_{dtype}": 128 * n_bytes for dtype, n_bytes in per_token.items()}
    assert report["kv_cache"] == {"n_ctx": 100, **expected}
    assert report["tokenizer"]["n_tokens"] == N_VOCAB
    assert (report["runs"], report["reason"]) == (True, None)
    assert {group["type"]: group["n_tensors"] for group in report["tensors"]} == {"Q8_0": 8, "F32": 3}


def test_inspect_describes_what_it_cannot_run(tmp_path: Path) -> None:
    path = write_model(tmp_path / "other.gguf", architecture="mystery", name="a\x1b[31mb")
    report = json.loads(woolly("inspect", str(path), "--json").stdout)
    assert not report["runs"]
    assert "mystery" in report["reason"]
    assert report["sizes"]["n_layer"] == 1
    result = woolly("inspect", str(path))
    assert result.returncode == 0
    assert "\x1b" not in result.stdout


def test_inspect_names_an_unsupported_type(tmp_path: Path) -> None:
    path = write_model(tmp_path / "i32.gguf", kind="F32")
    data = bytearray(path.read_bytes())
    at = data.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 4 + 2 * 8
    data[at : at + 4] = (26).to_bytes(4, "little")  # I32, as long as F32
    path.write_bytes(data)
    report = json.loads(woolly("inspect", str(path), "--json").stdout)
    assert not report["runs"]
    assert "I32" in report["reason"]
    assert {group["type"]: group["supported"] for group in report["tensors"]} == {"I32": False, "F32": True}


def test_up_refuses_a_taken_port(model: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = woolly("up", "-m", str(model), "--port", port, "--state-dir", str(tmp_path))
    assert result.returncode == 2
    assert one_line(result) == f"woolly: port {port} is taken; choose another with --port or --flower-port"


@pytest.mark.parametrize(("option", "other"), [("--port", "--flower-port"), ("--flower-port", "--port")])
@pytest.mark.parametrize("port", [-1, 65536])
def test_up_refuses_a_port_that_is_none(model: Path, tmp_path: Path, option: str, other: str, port: int) -> None:
    free = [other, str(free_port())]  # whatever listens on the usual one
    result = woolly("up", "-m", str(model), option, str(port), *free, "--state-dir", str(tmp_path))
    assert result.returncode == 2
    said = f"woolly: there is no port {port}: the last one is 65535; choose another with --port or --flower-port"
    assert one_line(result) == said


def test_what_is_hardly_meant_is_remarked_on(model: Path) -> None:
    from woolly_worker.kernels.cpu import allowed_cpus

    words = ["generate", "-m", str(model), "Hi", "--max-tokens", "1", "--temperature", "0"]
    n_threads = allowed_cpus() + 1
    result = woolly(*words, "--ctx", "101", "--threads", str(n_threads))
    assert result.returncode == 0
    # A cold kernel cache adds lines about compiling.
    remarks = [line for line in result.stderr.splitlines() if line.startswith(("woolly: the context", "woolly: there"))]
    about_context, about_threads = remarks
    assert about_context.startswith("woolly: the context is 101 tokens, but the model was trained for 100: ")
    assert about_threads.startswith(f"woolly: there are {n_threads} threads, but ")
    result = woolly(*words, "--ctx", "100", "--threads", "1")
    assert (result.returncode, but_progress(result.stderr)) == (0, "")


def test_a_setting_that_is_none_is_told(model: Path) -> None:
    words = ["generate", "-m", str(model), "Hi", "--max-tokens", "1"]
    result = woolly(*words, WOOLLY_THREDS="3", WOOLLY_SPEED="high", WOOLLY_THREADS="1")
    assert result.returncode == 0
    assert [line for line in result.stderr.splitlines() if "is no setting" in line] == [
        "woolly: WOOLLY_SPEED is set, but is no setting",
        "woolly: WOOLLY_THREDS is set, but is no setting: WOOLLY_THREADS is one",
    ]


def test_kernels_that_cannot_be_kept_are_told(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    words = ["generate", "-m", str(model), "Hi", "--max-tokens", "1"]
    result = woolly(*words, WOOLLY_KERNEL_CACHE=str(tmp_path / "file"))
    assert result.returncode == 0
    [told] = [line for line in result.stderr.splitlines() if "cannot be kept" in line]
    assert told.startswith(f"woolly: kernels cannot be kept in {tmp_path}/file/")
    assert told.endswith(": the next start compiles them again")


def test_every_variable_of_the_readme_is_a_setting() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    assert set(re.findall(r"WOOLLY_[A-Z_]*[A-Z]", readme)) - known_settings() == set()


def test_a_reader_that_has_enough_ends_the_text_without_a_word(model: Path) -> None:
    words = ["generate", "-m", str(model), "Hi", "--max-tokens", "90", "--ignore-eos"]
    command = shlex.join([sys.executable, "-m", "woolly_api.cli", *words]) + " | head -c 5; exit ${PIPESTATUS[0]}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, timeout=PATIENCE_S)
    assert (result.returncode, but_progress(result.stderr.decode())) == (141, "")
    assert len(result.stdout) == 5


@pytest.mark.parametrize("command", ["api", "flower"])
def test_a_server_refuses_a_taken_port(command: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = woolly(command, "--port", port)
    assert result.returncode == 1
    assert one_line(result) == f"woolly: port {port} is taken; choose another with --port"


def test_an_address_that_is_not_ours_is_one_line() -> None:
    result = woolly("api", "--host", "192.0.2.1", "--port", "0")
    assert result.returncode == 1
    assert one_line(result).startswith("woolly: cannot listen on 192.0.2.1:0: ")


@pytest.mark.parametrize("command", ["worker", "up", "api", "flower"])
def test_a_wrong_redis_address_is_one_line(command: str, model: Path) -> None:
    words = ["--model", str(model)] if command in ("worker", "up") else []
    result = woolly(command, *words, "--redis", "foo://bar")
    assert result.returncode == 2
    assert one_line(result).startswith("woolly: WOOLLY_REDIS_URL: ")


def test_a_cluster_gives_its_parts_the_time_they_were_given(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from woolly_api.cli.cluster import grace_seconds
    from woolly_api.programs import Cluster

    monkeypatch.setenv("WOOLLY_DRAIN_SECONDS", "90")
    monkeypatch.setenv("WOOLLY_API_SHUTDOWN_GRACE_SECONDS", "60")
    drain_seconds, api_grace_seconds = grace_seconds(model)
    cluster = Cluster(
        model=model,
        state_dir=tmp_path,
        api_host="127.0.0.1",
        api_port=1,
        flower_port=None,
        redis_url="redis://127.0.0.1:1/0",
        redis_port=1,
        drain_seconds=drain_seconds,
        api_grace_seconds=api_grace_seconds,
    )
    seconds = {program.name: program.stop_seconds for program in cluster.programs()}
    assert seconds["worker"] > 90 + 10
    assert seconds["api"] > 60


def test_up_refuses_a_setting_out_of_range(model: Path) -> None:
    result = woolly("up", "-m", str(model), WOOLLY_DRAIN_SECONDS="-1")
    assert result.returncode == 2
    assert one_line(result) == "woolly: WOOLLY_DRAIN_SECONDS: Input should be greater than or equal to 0"
    result = woolly("up", "-m", str(model), "--slots", "300")
    assert result.returncode == 2
    assert one_line(result) == "woolly: prefill_chunk is 256, but 300 slots take a token each per step"


def test_up_chooses_the_append_policy_of_its_own_server_only(model: Path, tmp_path: Path) -> None:
    from woolly_api.programs import Cluster

    cluster = Cluster(
        model=model,
        state_dir=tmp_path,
        api_host="127.0.0.1",
        api_port=1,
        flower_port=None,
        redis_url=None,
        redis_port=1,
        appendfsync="always",
    )
    server = cluster.server()
    assert server is not None
    assert server.argv[server.argv.index("--appendfsync") + 1] == "always"

    result = woolly("up", "-m", str(model), "--redis", "redis://127.0.0.1:1/0", "--appendfsync", "always")
    assert result.returncode == 2
    assert one_line(result).startswith("woolly: --appendfsync is for the embedded server")


def test_up_refuses_a_state_folder_in_use(model: Path, tmp_path: Path) -> None:
    from woolly_api.programs import locked_state_dir

    with locked_state_dir(tmp_path):
        result = woolly("up", "-m", str(model), "--port", "0", "--flower-port", "0", "--state-dir", str(tmp_path))
    assert result.returncode == 1
    assert one_line(result).startswith(f"woolly: another woolly uses {tmp_path}")


def test_up_tells_what_a_part_said_before_it_failed(tmp_path: Path) -> None:
    path = write_model(tmp_path / "other.gguf", architecture="mystery")
    ports = ["--port", "0", "--flower-port", "0"]
    result = woolly("up", "-m", str(path), *ports, "--state-dir", str(tmp_path / "state"))
    assert result.returncode == 1
    assert result.stderr.count("mystery") == 1
    assert result.stderr.splitlines()[-1].startswith("woolly: worker ended with exit code 2")
    assert "Traceback" not in result.stderr


def test_the_log_of_a_cluster_leaves_out_what_the_server_says_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    from woolly_api.cli.cluster_log import ClusterLog
    from woolly_api.cli.progress import Progress

    with Progress() as progress:
        log = ClusterLog(progress)
        log.line("server", "1:M 1 Jan 2026 00:00:00.000 # WARNING Memory overcommit must be enabled! Without it, ...")
        log.line("server", "1:M 1 Jan 2026 00:00:00.000 # Write error")
        log.line("worker", "overcommit")
        log.close()
    assert capsys.readouterr().err.splitlines() == [
        "server | 1:M 1 Jan 2026 00:00:00.000 # Write error",
        "worker | overcommit",
    ]


def test_the_log_of_a_cluster_leaves_out_what_its_libraries_say_of_themselves(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from woolly_api.cli.cluster_log import ClusterLog
    from woolly_api.cli.progress import Progress

    said = [
        ("worker", "2026-11-26T08:23:13Z [info     ] Connected to redis://x/0 [celery.worker.consumer.connection]"),
        ("worker", "2026-11-26T08:23:13Z [info     ] tiny.b34ae9@vm ready.   [celery.apps.worker]"),
        ("worker", ""),
        ("worker", "worker: Warm shutdown (MainProcess)"),
        ("flower", "[I 261126 08:23:13 mixins:228] Connected to redis://:**@127.0.0.1:39773/0"),
        ("flower", "[W 261126 08:23:14 inspector:98] Inspect method active_queues failed"),
        ("flower", "[I 261126 08:23:48 command:26] 15 detected, shutting down"),
    ]
    kept = [
        ("worker", "2026-11-26T08:23:13Z [info     ] ready                          [woolly.worker] model=tiny"),
        (
            "worker",
            "2026-11-26T08:23:13Z [error    ] no connection to redis://x [celery.worker.consumer.connection]",
        ),
        ("flower", "[E 261126 08:23:13 web:1] Uncaught exception GET /workers"),
        ("api", "2026-11-26T08:23:13Z [info     ] Connected to redis://x/0 [woolly.api]"),
    ]
    with Progress() as progress:
        log = ClusterLog(progress)
        for name, line in [*said, *kept]:
            log.line(name, line)
        log.close()
    assert capsys.readouterr().err.splitlines() == [f"{name:<7}| {line}" for name, line in kept]


def test_the_log_of_a_cluster_for_machines_is_an_object_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    from woolly_api.cli.cluster_log import JsonClusterLog

    log = JsonClusterLog()
    log.line("worker", '{"event": "job", "tokens": 3, "program": "it says so"}')
    log.line("server", "1:M 1 Jan 2026 00:00:00.000 # WARNING Memory overcommit must be enabled! Without it, ...")
    log.line("server", "  ")
    log.line("flower", 'quoted "text" \x1b[0m')
    log.line("flower", "[1]")
    log.notice("worker was killed by SIGKILL", "warning")
    assert isinstance(log.failure("it does not start", "worker", ["a line"]), Exception)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert lines[0] == {"program": "worker", "event": "job", "tokens": 3}
    assert [(line["program"], line["event"], line.get("level")) for line in lines[1:]] == [
        ("flower", 'quoted "text" \x1b[0m', None),
        ("flower", "[1]", None),
        ("woolly", "worker was killed by SIGKILL", "warning"),
        ("woolly", "it does not start", "error"),
    ]
    assert all(line["timestamp"].endswith("Z") for line in lines[1:])


def test_a_start_that_fails_is_told_in_objects_too(tmp_path: Path) -> None:
    path = write_model(tmp_path / "other.gguf", architecture="mystery")
    ports = ["--port", "0", "--flower-port", "0", "--no-flower"]
    result = woolly("up", "-m", str(path), *ports, "--state-dir", str(tmp_path / "state"), "--log-format", "json")
    assert (result.returncode, result.stdout) == (1, "")
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert any(line["program"] == "worker" and "mystery" in line["event"] for line in lines)
    ours = [line for line in lines if line["program"] == "woolly"]
    assert ours[-1]["event"].startswith("worker ended with exit code 2")
    assert ours[-1]["level"] == "error"


@pytest.mark.parametrize(
    ("n_bytes", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB"), (2 << 40, "2.0 TiB")]
)
def test_bytes_for_people(n_bytes: int, text: str) -> None:
    assert human_bytes(n_bytes) == text


def test_text_from_elsewhere_cannot_move_the_cursor() -> None:
    assert printable("a\x1b[2Jb\r\n") == "a�[2Jb��"


def test_bench_measures_and_prints_json() -> None:
    work = ["--prefill", "8", "--decode", "2", "--batch", "1,2", "--depth", "none", "--no-mixed"]
    result = woolly("bench", "-m", "demo", *work, "--rounds", "1", "--threads", "1", "--no-peer", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert [row["work"] for row in report["rows"]] == ["prefill 8", "decode, 1 sequence", "decode, 2 sequences"]
    assert all(row["tokens_per_second"] > 0 for row in report["rows"])


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--batch", "1,x", "--batch: '1,x' is not a list of numbers such as 1,8, nor 'none'"),
        ("--prefill", "0", "--prefill: 0 is less than 1"),
    ],
)
def test_bench_refuses_what_is_no_list(option: str, value: str, message: str) -> None:
    result = woolly("bench", "-m", "demo", option, value, "--no-peer")
    assert (result.returncode, one_line(result)) == (2, f"woolly: {message}")


def test_bench_measures_one_peer() -> None:
    both = ["--peer-program", "llama-batched-bench", "--peer-python", sys.executable]
    result = woolly("bench", "-m", "demo", *both)
    assert result.returncode == 2
    assert one_line(result).startswith("woolly: --peer-program and --peer-python name two peers")


def test_the_baseline_generates_the_same() -> None:
    question = ["generate", "-m", "demo", "--chat", "What is 7 + 8?", "-t", "0"]
    assert woolly(*question, "--baseline").stdout == woolly(*question, "--use-optimized-inference").stdout != ""


def test_the_api_refuses_what_only_a_worker_can_do() -> None:
    result = woolly("api", "--baseline")
    assert result.returncode == 2
    assert one_line(result).startswith("woolly: --baseline: the API computes nothing; give it to 'woolly worker'")
