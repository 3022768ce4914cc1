"""Real sockets: the commands, slow and many clients, tokens, and the explorer from Python."""

from __future__ import annotations

import asyncio
import functools
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from app_helpers import application, call, image_model, mutant, saved, served, table_model

import sfumato
import sfumato.app
from sfumato.app import server
from sfumato.app.server import Place, place, read_token
from sfumato.cli import main as cli
from sfumato.core.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("server"), image_model())


def get(where: Place, path: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", where.house.port, timeout=20)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_it_listens_on_this_machine_alone(folder: Path) -> None:
    with served(lambda bound: application(folder, house=bound.house)) as where:
        assert where.socket.getsockname()[0] == "127.0.0.1"
        assert get(where, "/")[0] == 200
        assert get(where, "/", Host="evil.example")[0] == 421
        outside = [a.address for each in psutil.net_if_addrs().values() for a in each if a.family == socket.AF_INET]
        for address in {item for item in outside if not item.startswith("127.")}:
            with pytest.raises(OSError):
                socket.create_connection((address, where.house.port), timeout=1).close()


def test_answers_leave_at_once(folder: Path) -> None:
    """Without TCP_NODELAY every answer on a kept connection waits 40 ms for the other side."""
    with served(lambda bound: application(folder, house=bound.house)) as where:
        connection = http.client.HTTPConnection("127.0.0.1", where.house.port, timeout=20)
        times = []
        for _ in range(20):
            began = time.perf_counter()
            connection.request("POST", "/explorer/decode", bytes(12))
            assert len(connection.getresponse().read()) == 16
            times.append(time.perf_counter() - began)
        connection.close()
    assert sorted(times)[3] < 0.03


def test_whoever_does_not_ask_is_let_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SECONDS_TO_ASK", 0.2)
    with served(lambda bound: application(folder, house=bound.house)) as where:
        for start in (b"", b"GET / HTTP/1.1\r\nHost: "):
            with socket.create_connection(("127.0.0.1", where.house.port), timeout=5) as slow:
                slow.sendall(start)
                assert slow.recv(1_000) == b""


def test_a_kept_connection_asks_again_in_time_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by the time that a silent connection is kept, which is longer."""
    monkeypatch.setattr(server, "SECONDS_TO_ASK", 0.2)
    with served(lambda bound: application(folder, house=bound.house)) as where:
        host = f"Host: 127.0.0.1:{where.house.port}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", where.house.port), timeout=5) as slow:
            for _ in range(2):
                slow.sendall(f"GET /static/mark.svg HTTP/1.1\r\n{host}".encode())
                while b"</svg>" not in slow.recv(10_000):
                    pass
            time.sleep(0.4)
            slow.sendall(b"GET / HTTP/1.1\r\n")
            assert slow.recv(1_000) == b""


def test_so_many_connections_and_no_more(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTIONS", 10)
    with served(lambda bound: application(folder, house=bound.house)) as where:
        held = [socket.create_connection(("127.0.0.1", where.house.port), timeout=5) for _ in range(10)]
        time.sleep(0.2)
        with socket.create_connection(("127.0.0.1", where.house.port), timeout=5) as one_more:
            assert one_more.recv(10) == b""
        for item in held:
            item.close()
        time.sleep(0.2)
        assert get(where, "/")[0] == 200


def test_two_hundred_at_once_get_an_answer_each(folder: Path) -> None:
    with served(lambda bound: application(folder, house=bound.house)) as where:
        process = psutil.Process()
        get(where, "/explorer/points")
        before = process.memory_info().rss

        def one(number: int) -> int:
            path = ("/explorer/points", "/explorer/state", "/api/model", "/")[number % 4]
            return get(where, path)[0]

        with ThreadPoolExecutor(200) as pool:
            statuses = list(pool.map(one, range(600)))
        assert set(statuses) <= {200, 429}
        assert statuses.count(200) >= 18
        assert get(where, "/explorer/state")[0] == 200
        assert process.memory_info().rss - before < 200e6


def test_other_computers_need_a_token(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match=r"expected --token FILE"):
        place(host="0.0.0.0", port=0)
    token = tmp_path / "token.txt"
    token.write_text("0123456789abcdef-XY\n")
    token.chmod(0o600)
    with served(lambda bound: application(folder, house=bound.house), host="0.0.0.0", token=token) as where:
        assert get(where, "/explorer/state")[0] == 401
        right = {"Authorization": "Bearer 0123456789abcdef-XY"}
        assert get(where, "/explorer/state", **right)[0] == 200
        assert (
            get(where, "/explorer/state", Host=f"{socket.gethostname().lower()}:{where.house.port}", **right)[0] == 200
        )
        assert get(where, "/explorer/state", Host=f"other:{where.house.port}", **right)[0] == 421


TOKENS: dict[str, tuple[str | None, int, str]] = {
    "none": (None, 0, "cannot be read"),
    "rights": ("0123456789abcdef", 0o644, "chmod 600"),
    "length": ("short", 0o600, "at least 16"),
    "space": ("with a space 0123456789", 0o600, "at least 16"),
    "letters": ("\u00fcn\u00efc\u00f6d\u00e9-0123456789abc", 0o600, "at least 16"),
}


@pytest.mark.parametrize(("content", "mode", "words"), TOKENS.values(), ids=list(TOKENS))
def test_a_token_file_holds_one_good_token(tmp_path: Path, content: str | None, mode: int, words: str) -> None:
    path = tmp_path / "token.txt"
    if content is not None:
        path.write_text(content, encoding="utf-8")
        path.chmod(mode)
    with pytest.raises(UserError, match=words):
        read_token(path)


MUTANTS = [
    ("if not local and secret is None:", "if False:", "other computers"),
    ("& 0o077", "& 0", "rights"),
    ("or len(text) < SHORTEST_TOKEN", "", "length"),
    ("[A-Za-z0-9_.~-]+", ".+", "letters"),
    ("if len(self.connections) > CONNECTIONS:", "if False:", "connections"),
    ("if self._deadline is None:", "if False:", "silent"),
    ("if self.cycle is None or self.cycle.response_complete:", "if self.cycle is None:", "kept"),
]


@pytest.mark.parametrize("change", MUTANTS, ids=[change[2] for change in MUTANTS])
def test_a_server_without_the_rule_is_found_out(
    change: tuple[str, str, str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = mutant(server, *change[:2], monkeypatch)
    if change[2] == "other computers":
        module.place(host="0.0.0.0", port=0).socket.close()
        return
    if change[2] in TOKENS:
        content, mode, _ = TOKENS[change[2]]
        assert content is not None
        (tmp_path / "token.txt").write_text(content, encoding="utf-8")
        (tmp_path / "token.txt").chmod(mode)
        module.read_token(tmp_path / "token.txt")
        return
    monkeypatch.setattr(server, "Patient", module.Patient)
    monkeypatch.setattr(module, *(("CONNECTIONS", 1) if change[2] == "connections" else ("SECONDS_TO_ASK", 0.2)))
    with (
        served(lambda bound: application(folder, house=bound.house)) as where,
        socket.create_connection(("127.0.0.1", where.house.port), timeout=1) as first,
        socket.create_connection(("127.0.0.1", where.house.port), timeout=1) as second,
    ):
        if change[2] != "connections":
            second.close()
        if change[2] == "kept":
            first.sendall(f"GET /static/mark.svg HTTP/1.1\r\nHost: 127.0.0.1:{where.house.port}\r\n\r\n".encode())
            while b"</svg>" not in first.recv(10_000):
                pass
            first.sendall(b"GET / HTTP/1.1\r\n")
        with pytest.raises(TimeoutError):  # nobody closes it
            (second if change[2] == "connections" else first).recv(10)


def test_ports() -> None:
    first, second = place(), place()
    assert server.PORT <= first.house.port < second.house.port < server.PORT + server.TRIED
    with pytest.raises(UserError, match="cannot be had"):
        place(port=first.house.port)
    assert f"ssh -L {first.house.port}:127.0.0.1:{first.house.port} " in first.tunnel
    for where in (first, second):
        where.socket.close()


def test_behind_a_proxy_its_address_is_said() -> None:
    where = place(port=0, public="https://Hub.example/user/ada/proxy/8421")
    assert where.address == "https://hub.example/user/ada/proxy/8421/"
    assert where.house.public == ("hub.example", "https://hub.example")
    where.socket.close()
    with pytest.raises(UserError, match="--public"):
        place(port=0, public="hub.example")


def command(*arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", "sfumato", *arguments], env=environment, **pipes)  # type: ignore[call-overload, no-any-return]


def test_the_command_says_where_and_ends_quietly(folder: Path) -> None:
    process = command("explore", str(folder), "--port", "0")
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("explorer at http://127.0.0.1:")
    port = int(line.split("http://127.0.0.1:")[1].split("/")[0])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/")
    assert connection.getresponse().status == 200
    connection.close()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode in (0, 130)
    assert out == ""
    assert err.startswith("from another computer:  ssh -L ")
    assert "Traceback" not in err


def test_the_service_has_no_page(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def once(app: Any, where: Place, on_ready: Any) -> None:
        seen.extend(call(app, "GET", path, headers={"host": f"127.0.0.1:{where.house.port}"}).status
                    for path in ("/", "/explorer/state", "/api/model"))  # fmt: skip
        on_ready()
        where.socket.close()

    monkeypatch.setattr(server, "serve", once)
    assert cli.run(["serve", str(folder), "--port", "0"]) == 0
    assert seen == [404, 404, 200]
    assert capsys.readouterr().out.startswith("service at http://127.0.0.1:")


def test_a_wrong_run_is_the_users_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["explore", str(tmp_path / "nowhere")]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert "does not exist" in found.err


def test_without_its_packages_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    for name in [name for name in sys.modules if name.startswith("sfumato.app")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    monkeypatch.setitem(sys.modules, "starlette", None)
    assert cli.run(["serve", str(folder)]) == 2
    assert "pip install 'sfumato[app]'" in capsys.readouterr().err


def test_from_python_it_is_a_process_that_ends_with_us(folder: Path) -> None:
    with sfumato.app.explore(folder, port=0, open=False) as explorer:
        assert explorer.process.poll() is None
        port = int(explorer.address.rsplit(":", 1)[1].strip("/"))
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/?" + explorer.frame.split("?")[1], headers={"Sec-Fetch-Site": "cross-site"})
        assert connection.getresponse().status == 200
        connection.close()
        html = explorer._repr_html_()
        assert f'<iframe src="{explorer.frame}"' in html
        assert len(html) < 10_000
        assert "running" in repr(explorer)
    assert explorer.process.poll() is not None
    assert "ended" in repr(explorer)
    explorer.close()


def test_from_python_the_service_answers_without_a_page(folder: Path) -> None:
    with sfumato.serve(folder, port=0) as service:
        port = int(service.address.rsplit(":", 1)[1].strip("/"))
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        for path, status in (("/openapi.json", 200), ("/explorer/state", 404)):
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status, path
        connection.close()
    assert service.process.poll() is not None


def test_from_python_a_mistake_is_an_exception(tmp_path: Path) -> None:
    for open_it in (functools.partial(sfumato.explore, open=False), sfumato.serve):
        with pytest.raises(UserError, match="does not exist"):
            open_it(tmp_path / "nowhere")


def test_it_works_without_a_network(folder: Path) -> None:
    """In a namespace that has nothing but loopback."""
    try:
        can = subprocess.run(["unshare", "-rn", "true"], capture_output=True, text=True, check=False, timeout=90)
    except FileNotFoundError:
        pytest.skip("NOT PROVEN HERE: this system has no unshare")
    if can.returncode:
        pytest.skip(f"NOT PROVEN HERE: a network of our own needs the right to make one ({can.stderr.strip()})")
    script = (
        "import fcntl, http.client, socket, struct, sfumato.app\n"
        "fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh', b'lo', 1))\n"  # SIOCSIFFLAGS, IFF_UP
        f"e = sfumato.app.explore({str(folder)!r}, port=0, open=False)\n"
        "p = int(e.address.rsplit(':', 1)[1].strip('/'))\n"
        "c = http.client.HTTPConnection('127.0.0.1', p); c.request('GET', '/')\n"
        "print(c.getresponse().status); c.close(); e.close()"
    )
    run = subprocess.run(
        ["unshare", "-rn", sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=90
    )
    assert run.stdout.strip() == "200", run.stderr


def test_slow_bodies_do_not_keep_others_from_being_served(folder: Path) -> None:
    async def run(port: int) -> bytes:
        slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(10)]
        for _, writer in slow:
            writer.write(
                f"POST /explorer/decode HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 12\r\n\r\n".encode()
            )
            await writer.drain()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /explorer/state HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        line = await asyncio.wait_for(reader.readline(), 5)
        for _, each in [*slow, (reader, writer)]:
            each.close()
        return line

    with served(lambda bound: application(folder, house=bound.house)) as where:
        assert b"200" in asyncio.run(run(where.house.port))


def test_a_table_is_served_too(tmp_path: Path) -> None:
    with served(lambda bound: application(saved(tmp_path, table_model()), house=bound.house)) as where:
        assert get(where, "/explorer/points")[0] == 200
