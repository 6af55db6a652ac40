"""The owner's page over real connections, attacked in every way that is known of such pages.

One page serves all cases. Whatever is tried, the node's home stays as it was, byte by byte of what an owner decides.
"""

from __future__ import annotations

import http.client
import json
import socket
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import pytest

from fedjob.common.config import read_config
from fedjob.common.pages.guard import MAX_BODY_BYTES, SECURITY_HEADERS
from fedjob.common.pages.password import PagePassword, set_password
from fedjob.node.data.datasets import Datasets
from fedjob.node.page.setting_words import AT_TERMINAL
from fedjob.node.storage.audit import Audit
from tests.owner_houses import TEXT, House, Opened, fill_with_evil, furnish, served

FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


class Browser:
    """A client that sends whatever it is told, with the cookie and the word of a session if it has one."""

    def __init__(self, opened: Opened) -> None:
        self.opened, self.origin = opened, opened.origin
        self.host = urlsplit(opened.origin).netloc
        self.cookie = self.csrf = ""

    def send(
        self, method: str, path: str, headers: Mapping[str, str | None] | None = None, body: bytes = b""
    ) -> Reply:
        """Send a request with these headers besides Host and cookie; None leaves one out."""
        own: dict[str, str | None] = {"Host": self.host, "Cookie": self.cookie or None}
        if method == "POST":
            own |= {"Origin": self.origin, "Content-Type": FORM, "Content-Length": str(len(body))}
        connection = http.client.HTTPConnection(self.host, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in {**own, **(headers or {})}.items():
                if value is not None:
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.send("GET", path, headers)

    def post(self, path: str, form: Mapping[str, Any] | None = None, **headers: str | None) -> Reply:
        fields = {"csrf": self.csrf, **(form or {})}
        return self.send("POST", path, headers, urlencode(fields, doseq=True).encode())

    def enter(self) -> Browser:
        answer = self.post("/enter", {"link": self.opened.site.link().partition("#")[2]})
        assert answer.status == 303, answer.text
        self.cookie = answer.headers["set-cookie"].split(";")[0]
        session = self.opened.site.sessions.find(self.cookie.partition("=")[2])
        assert session is not None
        self.csrf = session.csrf
        return self


@dataclass(frozen=True, slots=True)
class Scene:
    """A page of a home, its owner's browser, and the ids of what is in the home."""

    house: House
    opened: Opened
    owner: Browser
    ids: Mapping[str, str]

    def decided(self) -> dict[str, Any]:
        """Everything that an owner decides, as it is now."""
        tables = ("grants", "datasets", "budgets", "researchers", "owner_orders", "project_limits")
        rows = {
            table: [tuple(row) for row in self.house.database.rows(f"SELECT * FROM {table}")]
            for table in tables
        }
        return {
            **rows,
            "settings": read_config(self.house.home.root),
            "audit": Audit(self.house.database).head(),
        }


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("house")
    house = House(folder)
    ids = {**furnish(house), **fill_with_evil(house, folder)}
    with served(house.home) as opened:
        yield Scene(house, opened, Browser(opened).enter(), ids)
    house.close()


def actions(scene: Scene) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return each form of the page: its address, and fields with which it would change something."""
    ids = scene.ids
    waiting = scene.house.grants.get(ids["changed"])
    seen = f"{waiting.status} {len(waiting.approvals)} {waiting.decided or 0:.6f}"
    granted = scene.house.grants.get(ids["approved"])
    in_force = f"{granted.status} {len(granted.approvals)} {granted.decided or 0:.6f}"
    return {
        "approve": (f"/requests/{ids['changed']}/approve", {"seen": seen, "by": "Mira"}),
        "reject": (f"/requests/{ids['changed']}/reject", {"seen": seen, "by": "Mira", "reason": "no"}),
        "revoke": (f"/requests/{ids['approved']}/revoke", {"seen": in_force, "by": "Mira"}),
        "allow": ("/agreements", {"who": "*", "plan": "*", "data": "*", "by": "Mira"}),
        "reword": ("/datasets/heart_failure/words", {"min_rows": "0", "description": "open", "by": "Mira"}),
        "budget": ("/datasets/heart_failure/budget", {"epsilon": "1000", "by": "Mira"}),
        "no budget": ("/datasets/heart_failure/budget/remove", {"by": "Mira"}),
        "end": (f"/tasks/{ids['running']}/end", {"by": "Mira"}),
        "release": (f"/tasks/{ids['failed']}/release", {"by": "Mira"}),
        "set": ("/settings", {"name": "workers", "value": "7", "by": "Mira"}),
        "verify": ("/audit/verify", {}),
        "stop": ("/node/stop", {"by": "Mira"}),
        "leave": ("/leave", {}),
    }  # fmt: skip


NAMES = [
    *("approve", "reject", "revoke", "allow", "reword", "budget", "no budget"),
    *("end", "release", "set", "verify", "stop", "leave"),
]

FORGERIES: dict[str, Mapping[str, str | None]] = {
    "a page of the web": {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
    "a page of the web in an old browser": {"Origin": "https://evil.example"},
    "another server on this machine": {"Origin": "http://127.0.0.1:9", "Sec-Fetch-Site": "same-site"},
    "a sandboxed frame": {"Origin": "null"},
    "a request without an origin": {"Origin": None},
    "a form that says it is JSON": {"Content-Type": "application/json"},
    "a form that says it is text": {"Content-Type": "text/plain"},
    "a form of parts": {"Content-Type": "multipart/form-data; boundary=csrf"},
    "a rebound name": {"Host": "evil.example", "Origin": "http://evil.example"},
    "somebody without a session": {"Cookie": None},
    "somebody with a guessed session": {"Cookie": "fedjob-page-1=a; fedjob-page=b"},
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("forgery", FORGERIES)
def test_nothing_changes_by_a_form_that_comes_from(scene: Scene, forgery: str, name: str) -> None:
    path, form = actions(scene)[name]
    before = scene.decided()
    answer = scene.owner.post(path, form, **FORGERIES[forgery])
    assert answer.status in (403, 415, 421), answer.text
    assert scene.decided() == before
    assert scene.owner.get("/").status == 200, "the owner is still signed in"


WORDS = {
    "without the word of the session": lambda scene, form: {
        key: value for key, value in form.items() if key != "csrf"
    },
    "with an empty word": lambda scene, form: {**form, "csrf": ""},
    "with another session's word": lambda scene, form: {**form, "csrf": Browser(scene.opened).enter().csrf},
    "with two words": lambda scene, form: {**form, "csrf": [form["csrf"], form["csrf"]]},
    "with the cookie as the word": lambda scene, form: {**form, "csrf": scene.owner.cookie.partition("=")[2]},
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("words", WORDS)
def test_nothing_changes_by_a_form(scene: Scene, words: str, name: str) -> None:
    path, form = actions(scene)[name]
    before = scene.decided()
    forged = WORDS[words](scene, {**form, "csrf": scene.owner.csrf})
    body = urlencode(forged, doseq=True).encode()
    assert scene.owner.send("POST", path, body=body).status == 403
    assert scene.decided() == before


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_changes_by_another_method(scene: Scene, method: str) -> None:
    before = scene.decided()
    for path, form in actions(scene).values():
        query = urlencode({**form, "csrf": scene.owner.csrf})
        answer = scene.owner.send(method, f"{path}?{query}")
        assert answer.status in (200, 404, 405), path
        assert answer.status != 200 or path in ("/agreements", "/settings"), path
    assert scene.decided() == before


# --- texts of others -----------------------------------------------------------------------------

_TAGS = (
    "html head meta title link body a div header span nav ul li form input button main section h1 h2 h3 p b dl dt dd table "
    "caption thead tbody tr th td article aside details summary label select option textarea code ol small pre progress "
    "script"
)
_ATTRIBUTES = (
    "lang charset name content rel href class action method type value aria-label aria-labelledby aria-describedby "
    "aria-current scope data-label id for autocomplete required role tabindex max open selected src defer maxlength "
    "autofocus checked"
)
TAGS, ATTRIBUTES = set(_TAGS.split()), set(_ATTRIBUTES.split())


class Elements(HTMLParser):
    """What a browser would make of a page: every element and attribute that is not one of the page's own."""

    def __init__(self) -> None:
        super().__init__()
        self.odd: list[str] = []
        self.links: list[str] = []
        self.labels: set[str] = set()
        self.fields: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        self.odd += [tag] if tag not in TAGS else []
        self.odd += [f"{tag} {key}" for key in found if key not in ATTRIBUTES]
        self.links += [found[key] for key in ("href", "src", "action") if key in found]
        if tag == "script" and found.get("src") != "/static/page.js":
            self.odd.append(f"script {found}")
        if tag == "label" and "for" in found:
            self.labels.add(found["for"])
        if tag in ("input", "select", "textarea") and found.get("type") not in ("hidden", "checkbox"):
            self.fields.append(found.get("id", "without an id"))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def pages(scene: Scene) -> dict[str, str]:
    ids = scene.ids
    return {
        **{name: f"/{name}" for name in PLAIN_PAGES if name != "overview"},
        "overview": "/",
        **{name: f"/requests/{ids[name]}" for name in REQUEST_PAGES},
        "dataset": "/datasets/evil",
        "other dataset": "/datasets/heart_failure",
        "task": f"/tasks/{ids['evil_task']}",
        "failed task": f"/tasks/{ids['failed']}",
        "query of requests": f"/requests?state={quote(TEXT)}",
        "query of tasks": f"/tasks?show={quote(TEXT)}",
        "query of the audit log": f"/audit?before={quote(TEXT)}",
        "form that is filled in": f"/agreements?who={quote(TEXT)}&plan={quote(TEXT)}&data={quote(TEXT)}",
        "address that there is not": f"/{quote(TEXT.replace('/', ''))}",
    }


PLAIN_PAGES = [
    "overview",
    "requests",
    "agreements",
    "datasets",
    "tasks",
    "departures",
    "audit",
    "settings",
    "security",
]
REQUEST_PAGES = [
    "evil",
    "evil_before",
    "evil_statistics",
    "evil_rule",
    "changed",
    "approved",
    "statistics",
    "rejected",
]
PAGES = [*PLAIN_PAGES, *REQUEST_PAGES, "dataset", "other dataset", "task", "failed task", "query of requests",
         "query of tasks", "query of the audit log", "form that is filled in", "address that there is not"]  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_texts_of_others_are_texts_and_nothing_else(scene: Scene, name: str) -> None:
    answer = scene.owner.get(pages(scene)[name])
    assert answer.status == (404 if name == "address that there is not" else 200), answer.text
    elements = Elements()
    elements.feed(answer.text)
    assert elements.odd == []
    assert [link for link in elements.links if not link.startswith(("/", "#", "data:,"))] == []
    assert [c for c in answer.text if not (c.isprintable() or c in "\n\t")] == [], "no sign deceives the eye"
    assert "426763565" not in answer.text
    assert [field for field in elements.fields if field not in elements.labels] == [], (
        "every field has a label"
    )
    assert len(elements.fields) == len(set(elements.fields))
    for header, value in SECURITY_HEADERS.items():
        assert answer.headers[header] == value
    assert answer.headers["content-type"].startswith("text/html")
    assert not {"server", "x-powered-by", "access-control-allow-origin"} & set(answer.headers)


# --- addresses and requests -----------------------------------------------------------------------

ODD_PATHS = {
    "the beginning of an id": lambda ids: f"/requests/{ids['changed'][:6]}",
    "an id and more": lambda ids: f"/requests/{ids['changed']}x",
    "an id in capitals": lambda ids: f"/requests/{ids['changed'].upper()}X",
    "a pattern": lambda ids: "/requests/%25",
    "a task's key as a request": lambda ids: f"/requests/{ids['running']}",
    "a request's id as a task": lambda ids: f"/tasks/{ids['changed']}",
    "the beginning of a key": lambda ids: f"/tasks/{ids['running'][:12]}",
    "a query of SQL": lambda ids: "/requests/'%20OR%20'1'='1",
    "a query of SQL in a name": lambda ids: "/datasets/x'%20UNION%20SELECT%20*%20FROM%20grants--",
    "a file above": lambda ids: "/tasks/..%2f..%2fkeys%2fprivate",
    "a file above twice encoded": lambda ids: "/tasks/%252e%252e%252fkeys",
    "a file beside the style sheet": lambda ids: "/static/..%2fguard.py",
    "a template": lambda ids: "/static/layout.html",
    "a folder": lambda ids: "/static/",
    "a path of the machine": lambda ids: "/static//etc/passwd",
    "a null byte": lambda ids: "/static/page.css%00.html",
    "the home's database": lambda ids: "/node.sqlite",
    "a backslash": lambda ids: "/static/..%5c..%5csite.py",
    "a long name": lambda ids: f"/datasets/{'a' * 8000}",
    "letters that are none": lambda ids: "/datasets/%ff%fe",
    "documentation of an interface": lambda ids: "/openapi.json",
}


@pytest.mark.parametrize("what", ODD_PATHS)
def test_an_address_that_is_none_shows_nothing(scene: Scene, what: str) -> None:
    answer = scene.owner.get(ODD_PATHS[what](scene.ids))
    assert answer.status in (404, 400, 307), answer.text
    assert "root:" not in answer.text
    assert "private" not in answer.text.partition("<main")[2]


@pytest.mark.parametrize("what", ODD_PATHS)
def test_an_address_that_is_none_changes_nothing(scene: Scene, what: str) -> None:
    before = scene.decided()
    path = ODD_PATHS[what](scene.ids)
    form = {"by": "Mira", "seen": "pending 0 0.000000", "reason": "x", "epsilon": "9"}
    for act in ("approve", "end", "words"):
        answer = scene.owner.post(f"{path}/{act}", form)
        assert answer.status in (404, 400, 405, 303), answer.text
    assert scene.decided() == before


RAW = {
    "no host": "GET / HTTP/1.0\r\n\r\n",
    "two hosts": "GET / HTTP/1.1\r\nHost: HOST\r\nHost: evil.example\r\n\r\n",
    "another host in the line": "GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "two lengths": "POST /leave HTTP/1.1\r\nHost: HOST\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    "length and pieces": (
        "POST /leave HTTP/1.1\r\nHost: HOST\r\nCookie: COOKIE\r\nOrigin: http://HOST\r\nContent-Type: " + FORM
        + "\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n5\r\na=bcd\r\n0\r\n\r\n"
    ),
    "a head without end": "GET / HTTP/1.1\r\nHost: HOST\r\nX: " + "a" * 40_000,
    "a line without end": "GET /" + "a" * 40_000,
    "no HTTP": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a WebSocket": (
        "GET / HTTP/1.1\r\nHost: HOST\r\nCookie: COOKIE\r\nOrigin: https://evil.example\r\nSec-Fetch-Site: cross-site\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", RAW)
def test_a_request_that_is_none_is_refused(scene: Scene, what: str) -> None:
    before = scene.decided()
    host = scene.owner.host
    with socket.create_connection(("127.0.0.1", int(host.partition(":")[2])), timeout=20) as connection:
        connection.sendall(
            RAW[what].replace("HOST", host).replace("COOKIE", scene.owner.cookie).encode("latin-1")
        )
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while piece := connection.recv(65536):
                answer += piece
        except ConnectionResetError:
            pass
    assert answer == b"" or answer[9:12] in (b"400", b"403", b"405", b"411", b"413", b"421", b"431"), answer[
        :300
    ]
    assert scene.decided() == before
    assert scene.owner.get("/").status == 200


def test_a_form_that_is_too_large_is_refused_before_it_is_read(scene: Scene) -> None:
    before = scene.decided()
    path, form = actions(scene)["approve"]
    large = {**form, "note": "x" * (MAX_BODY_BYTES + 1)}
    assert scene.owner.post(path, large).status == 413
    assert scene.owner.post(path, {**form, "note": "x" * 5000}).status == 303
    assert "expected at most 4000 characters" in scene.owner.get("/requests").text
    assert scene.decided() == before


@pytest.mark.parametrize(
    ("name", "field", "value", "says"),
    [
        ("approve", "until", "yesterday", "is a date such as"),
        ("approve", "runs", "-1", "--runs is 1 or more"),
        ("approve", "runs", "1e9", "expected a whole number"),
        ("approve", "args", "lr=2..1", "--arg is NAME=MIN..MAX"),
        ("approve", "protections", "magic", "magic"),
        ("approve", "logs", "everything", "--logs is one of"),
        ("approve", "by", "", "a value of --by"),
        ("approve", "by", "a\x1bb", "by"),
        ("approve", "seen", "granted 0 0.000000", "look at it again"),
        ("reject", "reason", "", "expected a reason"),
        ("allow", "who", "key:00", "hex digits of the public key"),
        ("allow", "plan", "/etc/passwd.py", "files are the command"),
        ("allow", "plan", "../../home/plan.py:Net", "files are the command"),
        ("allow", "plan", "nothing.*", "matches no operation"),
        ("allow", "data", "nowhere", "there is no dataset"),
        ("reword", "min_rows", "9999", "fewer"),
        ("budget", "epsilon", "-1", "expected a number"),
        ("budget", "epsilon", "nan", "expected a number"),
        ("budget", "researchers", "key:abc", "is a researcher"),
        ("no budget", "project", "other", "there is no such budget"),
        ("release", "by", "", "a value of --by"),
        ("set", "value", "-7", "workers: expected a whole number of 0 or more"),
        ("set", "name", "no_such", "there is no setting"),
        ("set", "name", "__class__", "there is no setting"),
    ],
)  # fmt: skip
def test_a_value_that_is_none_is_answered_by_a_sentence(
    scene: Scene, name: str, field: str, value: str, says: str
) -> None:
    before = scene.decided()
    path, form = actions(scene)[name]
    assert scene.owner.post(path, {**form, field: value}).status in (303, 400)
    found = Elements()
    found.feed(scene.owner.get("/settings").text)
    assert says in "".join(found.texts)
    assert scene.decided() == before


@pytest.mark.parametrize("name", sorted(AT_TERMINAL))
def test_what_runs_programs_or_takes_a_protection_away_is_not_set_in_a_browser(
    scene: Scene, name: str
) -> None:
    before = scene.decided()
    for form in ({"value": "none"}, {"value": "off"}, {"usual": "yes"}):
        assert scene.owner.post("/settings", {"name": name, "by": "Mira", **form}).status == 303
        assert f"{name} is changed at the terminal alone" in scene.owner.get("/settings").text
    assert scene.decided() == before


# --- sessions ---------------------------------------------------------------------------------------


def test_a_link_opens_the_page_once(scene: Scene) -> None:
    link = scene.opened.site.link().partition("#")[2]
    first, second = Browser(scene.opened), Browser(scene.opened)
    assert first.post("/enter", {"link": link}).status == 303
    replayed = second.post("/enter", {"link": link})
    assert replayed.status == 403
    assert "set-cookie" not in replayed.headers
    assert "used already" in replayed.text


def test_a_session_that_somebody_else_chose_is_never_taken(scene: Scene) -> None:
    port = scene.owner.host.partition(":")[2]
    victim = Browser(scene.opened)
    victim.cookie = f"fedjob-page-{port}=chosen"
    assert victim.get("/").status == 303
    victim.enter()
    assert "chosen" not in victim.cookie
    other = Browser(scene.opened)
    other.cookie = f"fedjob-page-{port}=chosen"
    assert other.get("/").status == 303


def test_signing_out_ends_one_session_and_no_other(scene: Scene) -> None:
    visitor = Browser(scene.opened).enter()
    assert visitor.get("/").status == 200
    assert visitor.post("/leave").status == 303
    assert visitor.get("/").status == 303
    assert visitor.post("/settings", {"name": "workers", "value": "3"}).status == 403
    assert scene.owner.get("/").status == 200


@pytest.mark.parametrize(
    "path", ["/", "/requests", "/audit", "/settings", "/security", "/nothing", "/static"]
)
def test_whoever_did_not_sign_in_sees_the_door(scene: Scene, path: str) -> None:
    answer = Browser(scene.opened).get(path)
    assert (answer.status, answer.headers["location"], answer.body) == (303, "/enter", b"")
    door = Browser(scene.opened).get("/enter").text
    assert "heart_failure" not in door


def test_the_page_of_one_home_is_not_opened_by_the_session_of_another(scene: Scene, tmp_path: Path) -> None:
    house = House(tmp_path, "clinic-chur")
    with served(house.home) as opened:
        other = Browser(opened).enter()
        stranger = Browser(scene.opened)
        stranger.cookie, stranger.csrf = other.cookie, other.csrf
        assert stranger.get("/").status == 303
        port = stranger.host.partition(":")[2]
        stranger.cookie = f"fedjob-page-{port}={other.cookie.partition('=')[2]}"
        assert stranger.get("/").status == 303
        assert other.get("/").status == 200
        assert "clinic-chur" in other.get("/security").text
    house.close()


def test_passwords_are_not_guessed_side_by_side(scene: Scene, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    set_password(tmp_path / "password", "correct horse battery")
    house = House(tmp_path, "clinic-chur")
    with served(house.home, PagePassword(tmp_path / "password")) as opened, ThreadPoolExecutor(8) as pool:
        guesses = [f"guess number {n}" for n in range(24)] + ["correct horse battery"]
        statuses = list(
            pool.map(lambda word: Browser(opened).post("/enter", {"password": word}).status, guesses)
        )
    house.close()
    assert statuses.count(403) <= 4
    assert set(statuses) <= {403, 429}


# --- what an owner does -------------------------------------------------------------------------------


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Scene]:
    house = House(tmp_path)
    ids = furnish(house)
    with served(house.home) as opened:
        yield Scene(house, opened, Browser(opened).enter(), ids)
    house.close()


def newest(scene: Scene) -> tuple[str, str, dict[str, Any]]:
    seq, _ = Audit(scene.house.database).head()
    (record,) = Audit(scene.house.database).records(seq - 1)
    return record.kind, record.subject, json.loads(record.body)


def test_an_owner_decides_on_the_page_as_at_the_terminal_and_it_is_in_the_audit_log(desk: Scene) -> None:
    owner, ids, house = desk.owner, desk.ids, desk.house
    path, form = actions(desk)["approve"]
    assert (
        owner.post(
            path, {**form, "until": "30d", "runs": "2", "args": "lr=0.001..0.1", "note": "until May"}
        ).status
        == 303
    )
    grant = house.grants.get(ids["changed"])
    assert (grant.status, grant.decided_by, grant.limits.runs, grant.note) == (
        "granted",
        "Mira",
        2,
        "until May",
    )
    assert newest(desk)[2]["status"] == "granted"
    assert "approved: ann may run plan Readmission" in owner.get("/requests").text
    assert owner.post(path, form).status == 303, "the same form again"
    assert "was decided on, or changed, since you opened it" in owner.get(f"/requests/{ids['changed']}").text
    path, form = actions(desk)["revoke"]
    owner.post(path, {**form, "reason": "the vote ended"})
    assert house.grants.get(ids["approved"]).status == "revoked"
    assert newest(desk)[2]["note"] == "the vote ended"
    seen = {"seen": "pending 0 0.000000", "by": "Mira", "reason": "ask the board"}
    owner.post(f"/requests/{ids['statistics']}/reject", seen)
    assert house.grants.get(ids["statistics"]).status == "rejected"


def test_an_owner_allows_sets_and_orders_on_the_page(desk: Scene) -> None:
    owner, house = desk.owner, desk.house
    allowed = {
        "who": "ben",
        "plan": "fedjob.analytics.statistics",
        "data": "heart_failure",
        "by": "Mira",
        "moved_mb": "7",
        "min_rows": "100",
    }
    owner.post("/agreements", allowed)
    assert (
        "ben may run fedjob.analytics.statistics on heart_failure (private); 7 MB to and from the hub; at least 100 rows each"
        in owner.get("/agreements").text
    )
    for name in ("reword", "budget", "set", "release", "end"):
        path, form = actions(desk)[name]
        assert owner.post(path, form).status == 303
        kind, _, body = newest(desk)
        assert body["by"] == "Mira", kind
    assert Datasets(house.database).get("heart_failure").description == "open"
    assert read_config(house.home.root)["workers"] == 7
    assert [verb for _, verb, _ in house.tasks.orders()] == ["release", "kill"]
    owner.get("/")
    owner.post("/audit/verify")
    assert "records, unbroken; head" in owner.get("/audit").text
    owner.post("/node/stop", {"by": "Mira"})
    assert "no node runs in this home" in owner.get("/security").text


def test_a_changed_audit_log_is_found_by_the_page(desk: Scene) -> None:
    desk.house.database.execute("UPDATE audit SET body = '{}' WHERE seq = 3")
    desk.owner.post("/audit/verify")
    assert "audit record 3" in desk.owner.get("/audit").text


def test_the_same_words_and_marks_are_on_the_page_as_at_the_terminal(desk: Scene) -> None:
    from click.testing import CliRunner

    from fedjob.cli import cli

    id_ = desk.ids["changed"]
    typed = (
        CliRunner()
        .invoke(cli, ["node", "grants", "show", id_, "--code", "--home", str(desk.house.home.root)])
        .output
    )
    found = Elements()
    found.feed(desk.owner.get(f"/requests/{id_}").text)
    shown = " ".join(" ".join(found.texts).split())
    marks = [line.partition("^ ")[2] for line in typed.splitlines() if "^ risk: " in line]
    assert len(marks) >= 4
    assert [mark for mark in marks if " ".join(mark.removeprefix("risk: ").split()) not in shown] == []
    question = (
        next(line for line in typed.splitlines() if line.startswith("question"))
        .removeprefix("question")
        .strip()
    )
    assert question in shown
    added = [
        line[1:].strip()
        for line in typed.partition("changes since")[2].splitlines()
        if line[:1] == "+" and line[1:].strip()
    ]
    assert len(added) == 4
    assert [line for line in added if " ".join(line.replace("\u00b7", " ").split()) not in shown] == []
    assert "model_args.width is 32, approved was 16" in shown


def test_what_left_is_counted_answer_by_answer(desk: Scene) -> None:
    found = Elements()
    found.feed(desk.owner.get("/departures").text)
    shown = " ".join(" ".join(found.texts).split())
    assert "7 answers" in shown
    assert "13 numbers in values and metrics" in shown
    assert shown.count("48.2 kB") == 5


def test_two_pages_of_one_home_see_each_others_decisions(desk: Scene) -> None:
    with served(desk.house.home) as opened:
        other = Browser(opened).enter()
        path, form = actions(desk)["reject"]
        assert desk.owner.post(path, form).status == 303
        assert desk.house.grants.get(desk.ids["changed"]).status == "rejected"
        other.post(path.replace("reject", "approve"), form)
        assert "was decided on, or changed, since you opened it" in other.get("/").text
        assert desk.house.grants.get(desk.ids["changed"]).status == "rejected"


def test_a_database_that_breaks_is_one_sentence(desk: Scene) -> None:
    desk.house.close()
    path = desk.house.home.database
    for one in path.parent.glob("node.sqlite*"):
        one.unlink()
    path.write_bytes(b"this is no database at all, and long enough to be looked at as one" * 40)
    answer = desk.owner.get("/requests")
    assert answer.status in (400, 503)
    assert "Traceback" not in answer.text
    desk.house.database = sqlite3.connect(":memory:")  # type: ignore[assignment]
