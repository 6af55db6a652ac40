"""The command `fedjob node page` as a process: its password, its port, and what it says where the extra is missing."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tests.homes import open_to_others
from tests.owner_houses import House

OUTER = "https://owner.clinic.example"
WITHOUT_JINJA = """
import sys
sys.modules["jinja2"] = None  # as it is where it is not installed
from fedjob.cli import main
sys.argv = ["fedjob", "node", "page", "--home", sys.argv[1]]
main()
"""


class _Stay(HTTPRedirectHandler):
    def redirect_request(self, *args: object, **more: object) -> None:
        return None


def status_of(port: str, password: str, host: str, origin: str) -> tuple[int, str]:
    """Sign in with a password; return the status and the cookie."""
    request = Request(f"http://127.0.0.1:{port}/enter", urlencode({"password": password}).encode())
    for name, value in (("Host", host), ("Origin", origin)):
        request.add_header(name, value)
    try:
        with build_opener(_Stay()).open(request, timeout=30) as answer:
            return answer.status, ""
    except HTTPError as error:
        return error.code, error.headers.get("set-cookie", "")


def test_a_password_is_asked_for_once_and_opens_the_page_behind_a_web_server(tmp_path: Path) -> None:
    house = House(tmp_path)
    command = [sys.executable, "-m", "fedjob", "node", "page", "--home", str(house.home.root), "--password"]
    for typed in ("correct horse battery\n", ""):  # the second time it is known
        process = subprocess.Popen(
            [*command, "--url", OUTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )  # fmt: skip
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(typed)
            process.stdin.close()
            ready = re.search(
                r"page ready: http://127\.0\.0\.1:(\d+)/enter#\S{40,}", process.stdout.readline()
            )
            assert ready is not None
            port, host = ready[1], OUTER.removeprefix("https://")
            right, wrong = "correct horse battery", "incorrect horse battery"
            assert status_of(port, wrong, host, OUTER)[0] == 403
            status, cookie = status_of(port, right, host, OUTER)
            assert status == 303
            assert cookie.endswith("HttpOnly; SameSite=Strict; Secure")
            assert status_of(port, right, "evil.example", OUTER)[0] == 421
        finally:
            process.terminate()
            assert process.wait(30) == 0
            process.stdout.close()
            assert process.stderr is not None
            assert "Traceback" not in process.stderr.read()
            process.stderr.close()
    assert stat.S_IMODE(house.home.page_password.stat().st_mode) == 0o600
    assert open_to_others(house.home.root) == []
    house.close()


def test_enter_at_the_terminal_prints_another_link(tmp_path: Path) -> None:
    house = House(tmp_path)
    terminal, seen_by_it = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "fedjob", "node", "page", "--home", str(house.home.root)],
        stdin=seen_by_it,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        links = [process.stdout.readline() for _ in range(2)][:1]
        os.write(terminal, b"\n")
        links.append(process.stdout.readline())
        found = [re.search(r"http://127\.0\.0\.1:\d+/enter#(\S{40,})", line) for line in links]
        secrets = {match[1] for match in found if match}
        assert len(secrets) == 2, links
    finally:
        process.terminate()
        assert process.wait(30) == 0
        process.stdout.close()
        os.close(terminal)
        os.close(seen_by_it)
    house.close()


def test_without_the_extra_there_is_one_sentence(tmp_path: Path) -> None:
    house = House(tmp_path)
    command = [sys.executable, "-c", WITHOUT_JINJA, str(house.home.root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.strip() == "fedjob: the page needs jinja2: pip install 'fedjob[page]'"
    house.close()
