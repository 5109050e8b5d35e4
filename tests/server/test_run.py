"""`patchbank serve` as a process: how it starts, what it says when it cannot, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from patchbank import ConfigError
from patchbank.server.registering import name_of
from patchbank.server.settings import Settings

COMMAND = (sys.executable, "-m", "patchbank", "serve")


class Process:
    """A running `patchbank serve`."""

    def __init__(self, *args: object, env: dict[str, str] | None = None) -> None:
        folder = () if "--data" in args else ("--data", tempfile.mkdtemp(prefix="patchbank-test-"))
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, args), *folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | (env or {}),
        )
        self.address = self.process.stdout.readline().strip()

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """The exit code, and what stood on stderr."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


@contextmanager
def process(*args: object, **rest):
    running = Process(*args, "--port", 0, **rest)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_command_starts_it_and_a_signal_ends_it_with_0(model_file, files, number):
    with process(model_file, "--stop-delay", 0) as running:
        assert running.address.startswith("http://127.0.0.1:")
        answer = post(running.address, files[1])
        assert answer.json()["outputs"][2]["data"] == ["ng"]
        code, errors = running.end(number)
    assert code == 0
    assert "started" in errors
    assert errors.splitlines()[-1].endswith("stopped")
    assert "Traceback" not in errors


def test_without_a_model_it_runs_too():
    with process() as running:
        assert httpx.get(f"{running.address}/readyz").json() == {"ready": True}
        assert httpx.post(f"{running.address}/v2/repository/index").json() == []


def test_logs_are_json_where_that_is_wanted(model_file):
    with process(model_file, "--log-format", "json", "--stop-delay", 0) as running:
        httpx.get(f"{running.address}/v2/models/part", headers={"X-Request-ID": "me-1"})
        httpx.get(f"{running.address}/healthz")
        _, errors = running.end()
    lines = [json.loads(line) for line in errors.splitlines()]
    assert [line["message"] for line in lines] == [
        *("model file deployed", "model in use", "started", "request", "stopping", "stopped")
    ]
    assert lines[3]["request_id"] == "me-1"
    assert lines[3]["status"] == 200
    assert lines[3]["path"] == "/v2/models/part"


def test_it_drains(model_file):
    """A body that is still on its way when SIGTERM comes is answered; meanwhile the service says that it is not ready;
    then it ends with 0."""
    with process(model_file, "--stop-delay", 1) as running:
        host, port = running.address.removeprefix("http://").split(":")
        slow = socket.create_connection((host, int(port)), timeout=60)
        slow.sendall(
            b"POST /v2/models/part/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n"
            b"Inference-Header-Content-Length: 2\r\n\r\n{"
        )
        with httpx.Client() as client:
            assert client.get(f"{running.address}/readyz").status_code == 200
            running.process.send_signal(signal.SIGTERM)
            wait_until(lambda: client.get(f"{running.address}/readyz").status_code == 503)
            assert client.get(f"{running.address}/healthz").status_code == 200
        wait_until(lambda: refused(host, int(port)))
        assert running.process.poll() is None
        slow.sendall(b"}")
        assert b"400 Bad Request" in slow.recv(65536)
        slow.close()
        _, errors = running.process.communicate(timeout=60)
        code = running.process.returncode
    assert code == 0
    assert "Traceback" not in errors


def test_what_does_not_end_is_ended(model_file):
    """A client that never sends its body does not keep the process: it gets 503, and the process ends with 0."""
    with process(model_file, "--stop-delay", 0, "--stop-timeout", 1) as running:
        host, port = running.address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as stuck:
            stuck.sendall(b"POST /v2/models/part/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{")
            wait_until(lambda: httpx.get(f"{running.address}/healthz").status_code == 200)
            code, errors = running.end()
            assert b"503 Service Unavailable" in stuck.recv(65536)
    assert code == 0
    assert "Traceback" not in errors


def test_a_port_in_use_is_one_line(model_file):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = failure(model_file, "--port", port, code=2)
    assert f"cannot listen on 127.0.0.1:{port}" in line
    assert "choose another --port" in line


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["--host", "no.such.host.invalid"], 2, "expected an address of this machine"),
        (["--host", "192.0.2.1"], 2, "cannot listen on 192.0.2.1"),
        (["--port", "70000"], 2, "port: expected"),
        (["missing.patchbank"], 5, "missing.patchbank"),
        (["--tls-cert", "a.pem"], 2, "tls_key: expected a file"),
        (["--tls-cert", "a.pem", "--tls-key", "b.pem"], 2, "expected a certificate"),
        (["--trusted-proxies", "10.0.0.300"], 2, "trusted_proxies: expected addresses"),
        (["--log-format", "xml"], 2, "log_format: expected one of text, json"),
    ],
)
def test_what_cannot_be_is_one_line(args, code, said):
    assert said in failure(*args, code=code)


def test_two_models_of_one_name_are_one_line(model_file, tmp_path):
    (tmp_path / "part.patchbank").write_bytes(model_file.read_bytes())
    assert "different names" in failure(model_file, tmp_path / "part.patchbank", code=2)


def test_options_come_from_a_file_too_and_flags_win(tmp_path, model_file):
    (tmp_path / "serve.toml").write_text('log_format = "json"\nstop_delay = 100.0\nqueue = 3\n')
    with process(model_file, "--config", tmp_path / "serve.toml", "--stop-delay", 0) as running:
        code, errors = running.end()
    assert code == 0
    assert json.loads(errors.splitlines()[-1])["message"] == "stopped"
    (tmp_path / "serve.toml").write_text("backbone = 'x'")
    assert "unknown option 'backbone'" in failure("--config", tmp_path / "serve.toml", code=2)


def test_a_missing_extra_says_how_to_get_it():
    hide = "import sys; sys.modules['fastapi'] = None; sys.argv = ['patchbank', 'serve']; "
    done = subprocess.run(
        [sys.executable, "-c", hide + "from patchbank.cli import main; main()"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 6
    assert "pip install 'patchbank[serve]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_import_patchbank_imports_nothing_of_it():
    code = "import sys, patchbank, patchbank.cli.app; print([m for m in sys.modules if m.split('.')[0] in %r])"
    heavy = ("fastapi", "starlette", "uvicorn", "httptools", "prometheus_client", "sqlalchemy", "alembic", "argon2")
    done = subprocess.run([sys.executable, "-c", code % (heavy,)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    return make_certificate(folder / "cert.pem", folder / "key.pem", "first")


def make_certificate(cert: Path, key: Path, name: str) -> tuple[Path, Path]:
    try:
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"),
                *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)),
            ],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("makes its certificate with openssl, which is not here")
    return cert, key


def test_https(model_file, certificate):
    cert, key = certificate
    context = ssl.create_default_context(cafile=str(cert))
    with process(model_file, "--tls-cert", cert, "--tls-key", key, "--stop-delay", 0) as running:
        assert running.address.startswith("https://")
        answer = httpx.get(f"{running.address}/healthz", verify=context)
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{running.address}/healthz", verify=old)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_a_new_certificate_needs_no_restart(model_file, certificate, tmp_path):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(certificate[0].read_bytes())
    key.write_bytes(certificate[1].read_bytes())
    with process(model_file, "--tls-cert", cert, "--tls-key", key, "--stop-delay", 0) as running:
        host, port = running.address.removeprefix("https://").split(":")
        before = ssl.get_server_certificate((host, int(port)))
        make_certificate(cert, key, "second")
        running.process.send_signal(signal.SIGHUP)
        wait_until(lambda: ssl.get_server_certificate((host, int(port))) != before)
        after = ssl.get_server_certificate((host, int(port)))
        cert.write_text("no certificate")
        running.process.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        assert ssl.get_server_certificate((host, int(port))) == after
        code, errors = running.end()
    assert code == 0
    assert "the one before stays in use" in errors


def test_names_of_models():
    assert name_of("/a/b/cap v2.patchbank") == "cap v2"
    for bad in (".patchbank", "a\nb.patchbank", "x" * 65 + ".patchbank", "-a.patchbank", "a?b.patchbank"):
        with pytest.raises(ConfigError, match="expected a file named"):
            name_of(bad)


def test_settings_check_their_values():
    assert Settings(trusted_proxies="10.0.0.5, 10.1.0.0/16").proxies == ("10.0.0.5", "10.1.0.0/16")
    assert Settings(max_body_mb=2).max_body == 2_000_000
    with pytest.raises(ConfigError, match="unknown option 'ports'"):
        Settings(ports=1)


def test_a_second_ctrl_c_does_not_wait(model_file):
    with process(model_file, "--stop-delay", 60) as running:
        errors: list[str] = []
        reader = threading.Thread(target=lambda: errors.extend(iter(running.process.stderr.readline, "")))
        reader.start()
        running.process.send_signal(signal.SIGINT)
        wait_until(lambda: any("stopping" in line for line in errors))
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(20) == 0
        reader.join()
    assert "Traceback" not in "".join(errors)


def failure(*args: object, code: int) -> str:
    """Runs a command that must fail, with one line."""
    folder = ("--data", tempfile.mkdtemp(prefix="patchbank-test-"))
    done = subprocess.run([*COMMAND, *map(str, args), *folder], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def post(address: str, content: bytes) -> httpx.Response:
    headers = {"Inference-Header-Content-Length": "0"}
    return httpx.post(f"{address}/v2/models/part/infer", content=content, headers=headers, timeout=60)


def refused(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=60).close()
    except ConnectionRefusedError:
        return True
    return False


def wait_until(true) -> None:
    for _ in range(1500):
        if true():
            return
        time.sleep(0.04)
    raise AssertionError("it did not become true within a minute")
