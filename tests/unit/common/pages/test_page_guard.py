"""The guard before a page: what is no request of this page itself is refused before any handler sees it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fedjob.common.errors import ConfigError, SpecError
from fedjob.common.pages.guard import MAX_BODY_BYTES, SECURITY_HEADERS, field_of
from fedjob.common.pages.password import PagePassword, set_password
from fedjob.common.pages.rendering import NavLink, PageTemplates, number_text, size_text, visible_text
from fedjob.common.pages.site import PageSite, check_outer_url
from tests.asgi import Answer, Visitor, call

ORIGIN = "http://127.0.0.1:8000"
OUTER = "https://page.hospital.example"


class Changes:
    """A page with one thing to change, which counts how often that was done."""

    def __init__(self, folder: Path, *, outer_url: str = "", password: PagePassword | None = None) -> None:
        (folder / "front.html").write_text(
            '{% extends "layout.html" %}{% block main %}<h1>{{ title }}</h1>{{ text }}{% endblock %}'
        )
        self.changed: list[dict[str, list[str]]] = []
        self.templates = PageTemplates(
            folder, title="Node <b>x</b>", nav=lambda: [NavLink(path="/", label="Requests", count=2)]
        )
        routes = [
            Route("/", self._front, methods=["GET"]),
            Route("/change", self._change, methods=["POST"]),
            Route("/fails", self._fails, methods=["GET"]),
        ]
        self.site = PageSite(self.templates, routes, port=8000, outer_url=outer_url, password=password)

    def _front(self, request: Request) -> Response:
        return self.templates.render(
            request, "front.html", title="Front", text=request.query_params.get("q", "")
        )

    def _change(self, request: Request) -> Response:
        self.changed.append(dict(request.state.form))
        request.state.session.note("good", "changed")
        return Response("done")

    def _fails(self, request: Request) -> Response:
        if request.query_params.get("how") == "spec":
            raise SpecError("there is no <i>such</i> thing")
        raise ZeroDivisionError("secret of the house")


@pytest.fixture
def page(tmp_path: Path) -> Changes:
    return Changes(tmp_path)


@pytest.fixture
def owner(page: Changes) -> Visitor:
    visitor = Visitor(page.site, ORIGIN)
    assert visitor.enter().status == 303
    return visitor


def posted(page: Changes, visitor: Visitor, headers: Sequence[tuple[str, str]], body: bytes) -> Answer:
    return call(page.site.app, "/change", method="POST", headers=headers, body=body)


def test_a_form_of_the_page_itself_is_taken(page: Changes, owner: Visitor) -> None:
    assert owner.post("/change", {"a": "1"}).text == "done"
    assert page.changed == [{"a": ["1"]}]
    front = owner.get("/")
    assert 'role="status"><p>changed</p>' in front.text, "the next page says what was done"
    assert "changed" not in owner.get("/").text, "and the one after that does not"


FORM = ("content-type", "application/x-www-form-urlencoded")
REFUSED: dict[str, tuple[int, dict[str, str | None]]] = {
    "from another site": (403, {"origin": "https://evil.example"}),
    "from another port of this machine": (403, {"origin": "http://127.0.0.1:8001"}),
    "from another name of this machine": (403, {"origin": "http://localhost:8000"}),
    "from the same name with another scheme": (403, {"origin": "https://127.0.0.1:8000"}),
    "from a sandboxed frame or a file": (403, {"origin": "null"}),
    "without an origin": (403, {"origin": None}),
    "with two origins": (403, {"origin": f"{ORIGIN} {ORIGIN}"}),
    "that the browser says is another site's": (403, {"sec-fetch-site": "cross-site"}),
    "that the browser says is another port's": (403, {"sec-fetch-site": "same-site"}),
    "for another host": (421, {"host": "evil.example"}),
    "for a rebound name with this port": (421, {"host": "evil.example:8000"}),
    "for this machine without a port": (421, {"host": "127.0.0.1"}),
    "for another port": (421, {"host": "127.0.0.1:8001"}),
    "for every address": (421, {"host": "0.0.0.0:8000"}),
    "for no host": (421, {"host": None}),
    "for a host with a user": (421, {"host": "127.0.0.1:8000@evil.example"}),
    "as JSON": (415, {"content-type": "application/json"}),
    "as plain text": (415, {"content-type": "text/plain"}),
    "as parts": (415, {"content-type": "multipart/form-data; boundary=x"}),
    "of no type": (415, {"content-type": None}),
    "without a session": (403, {"cookie": None}),
    "with a session that is made up": (403, {"cookie": "fedjob-page-8000=abcdefgh"}),
    "with another page's cookie": (403, {"cookie": "fedjob-page-8001=SAME"}),
    "with a broken cookie": (403, {"cookie": '=;;"; fedjob-page-8000'}),
    "that says it is too large": (413, {"content-length": str(MAX_BODY_BYTES + 1)}),
    "that says it is below nothing": (413, {"content-length": "-1"}),
    "of a size that is no number": (413, {"content-length": "\u00b2"}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_form_is_refused(page: Changes, owner: Visitor, case: str) -> None:
    status, changes = REFUSED[case]
    good = {"host": "127.0.0.1:8000", "origin": ORIGIN, FORM[0]: FORM[1], "cookie": owner.cookie}
    given = {**good, **changes}
    session = owner.cookie.partition("=")[2]
    headers = [(key, value.replace("SAME", session)) for key, value in given.items() if value is not None]
    answer = posted(page, owner, headers, f"csrf={owner.csrf}&a=1".encode())
    assert (answer.status, page.changed) == (status, [])
    assert answer.header("x-frame-options") == "DENY"
    assert posted(page, owner, list(good.items()), f"csrf={owner.csrf}&a=1".encode()).status == 200


BODIES = {
    "without the word": (403, b"a=1"),
    "with an empty word": (403, b"csrf=&a=1"),
    "with another word": (403, b"csrf=" + b"x" * 43),
    "with the word of nobody twice": (403, b"csrf=x&csrf=WORD"),
    "with the word twice": (403, b"csrf=WORD&csrf=WORD"),
    "with the word in capitals": (403, b"CSRF=WORD"),
    "with nothing": (403, b""),
    "that is too large": (413, b"csrf=WORD&a=" + b"x" * MAX_BODY_BYTES),
    "of too many fields": (400, b"csrf=WORD" + b"&a=1" * 300),
    "of no form": (400, b"csrf=WORD&a"),
    "of other letters": (400, b"csrf=WORD&a=\xff"),
    "of broken letters": (400, b"csrf=WORD&a=%ff"),
}


@pytest.mark.parametrize("case", BODIES)
def test_a_form_is_refused_for_what_it_holds(page: Changes, owner: Visitor, case: str) -> None:
    status, body = BODIES[case]
    headers = [*owner.headers(), ("origin", ORIGIN), FORM]
    answer = posted(page, owner, headers, body.replace(b"WORD", owner.csrf.encode()))
    assert (answer.status, page.changed) == (status, [])


def test_a_form_that_arrives_in_pieces_is_limited_as_a_whole(page: Changes, owner: Visitor) -> None:
    headers = [*owner.headers(), ("origin", ORIGIN), FORM]
    piece = b"x" * 4096
    answer = call(page.site.app, "/change", method="POST", headers=headers, body=[b"csrf=", *[piece] * 20])
    assert (answer.status, page.changed) == (413, [])


@pytest.mark.parametrize(
    "method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get"]
)
def test_other_methods_do_nothing(page: Changes, owner: Visitor, method: str) -> None:
    answer = call(page.site.app, "/change", method=method, headers=[*owner.headers(), ("origin", ORIGIN)])
    assert (answer.status, page.changed) == (405, [])


def test_reading_changes_nothing(page: Changes, owner: Visitor) -> None:
    for method in ("GET", "HEAD"):
        assert call(page.site.app, "/change", method=method, headers=owner.headers()).status == 405
    assert page.changed == []


def test_whoever_has_no_session_sees_the_door_and_nothing_else(page: Changes) -> None:
    stranger = Visitor(page.site, ORIGIN)
    for path in ("/", "/change", "/fails", "/nothing", "/static", "/../etc/passwd"):
        answer = stranger.get(path)
        assert (answer.status, answer.header("location"), answer.body) == (303, "/enter", b""), path
    door = stranger.get("/enter")
    assert door.status == 200
    assert "Requests" not in door.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}, 403),
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, 200),
        ({"sec-fetch-site": "none", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, 200),
        ({"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"}, 200),
    ],
)
def test_another_page_can_load_nothing_of_this_one(
    owner: Visitor, headers: dict[str, str], status: int
) -> None:
    assert call(owner.site.app, "/", headers=[*owner.headers(), *headers.items()]).status == status


def test_every_answer_has_the_headers_that_keep_it_to_itself(page: Changes, owner: Visitor) -> None:
    stranger = Visitor(page.site, "http://evil.example")
    answers = [owner.get(path) for path in ("/", "/static/page.css", "/nothing", "/enter")]
    for answer in [*answers, stranger.get("/"), owner.post("/change", csrf=False)]:
        for name, value in SECURITY_HEADERS.items():
            assert answer.header(name) == value
        policy = answer.header("content-security-policy")
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy


def test_a_session_begins_anew_with_each_sign_in_whatever_a_browser_brought(page: Changes) -> None:
    victim = Visitor(page.site, ORIGIN)
    victim.cookie = "fedjob-page-8000=fixed-by-somebody-else"
    victim.enter()
    assert "fixed" not in victim.cookie
    assert victim.get("/").status == 200
    other = Visitor(page.site, ORIGIN)
    other.cookie = "fedjob-page-8000=fixed-by-somebody-else"
    assert other.get("/").status == 303
    old = victim.cookie
    victim.enter()
    other.cookie = old
    assert other.get("/").status == 303, "the session before it has ended"


def test_the_cookie_is_hidden_from_scripts_and_from_other_sites(page: Changes) -> None:
    cookie = Visitor(page.site, ORIGIN).enter().header("set-cookie")
    assert cookie.endswith("; Path=/; HttpOnly; SameSite=Strict")


def test_signing_out_ends_the_session(owner: Visitor) -> None:
    answer = owner.post("/leave")
    assert answer.status == 303
    assert "Max-Age=0" in answer.header("set-cookie")
    assert owner.get("/").status == 303


def test_behind_a_web_server_with_tls_the_cookie_is_secure(tmp_path: Path) -> None:
    page = Changes(tmp_path, outer_url=OUTER)
    visitor = Visitor(page.site, OUTER)
    answer = visitor.enter()
    assert answer.header("set-cookie").endswith("; Secure")
    assert answer.header("strict-transport-security")
    assert visitor.post("/change").status == 200
    visitor.origin = "http://page.hospital.example"
    assert visitor.post("/change").status == 403


def test_a_password_opens_the_page_and_guessing_it_does_not(tmp_path: Path) -> None:
    set_password(tmp_path / "password", "correct horse battery")
    page = Changes(tmp_path, password=PagePassword(tmp_path / "password"))
    guesser = Visitor(page.site, ORIGIN)
    statuses = [guesser.post("/enter", {"password": f"guess {n}"}).status for n in range(8)]
    assert statuses == [403, 403, 403, 403, 429, 429, 429, 429]
    assert guesser.post("/enter", {"password": "correct horse battery"}).status == 429
    owner = Visitor(page.site, ORIGIN)
    assert owner.enter().status == 303, "the link of the terminal opens it all the same"


def test_a_password_signs_in(tmp_path: Path) -> None:
    set_password(tmp_path / "password", "correct horse battery")
    page = Changes(tmp_path, password=PagePassword(tmp_path / "password"))
    owner = Visitor(page.site, ORIGIN)
    assert owner.post("/enter", {"password": "correct horse battery"}).status == 303


@pytest.mark.parametrize(
    "form", [{}, {"link": ""}, {"link": "guess"}, {"password": "x"}, {"link": ["a", "b"]}]
)
def test_nothing_else_opens_the_page(page: Changes, form: dict[str, str]) -> None:
    visitor = Visitor(page.site, ORIGIN)
    answer = visitor.post("/enter", form)
    assert answer.status in (400, 403)
    assert not answer.header("set-cookie")


def test_texts_of_others_are_shown_as_texts(owner: Visitor) -> None:
    text = owner.get("/", query="q=%3Cscript%3Ealert(1)%3C/script%3E%22%27%E2%80%AEexe").text
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39;\ufffdexe" in text
    assert "Node &lt;b&gt;x&lt;/b&gt;" in text


def test_an_error_is_a_sentence_and_no_traceback(owner: Visitor) -> None:
    refused = owner.get("/fails", query="how=spec")
    assert refused.status == 400
    assert "there is no &lt;i&gt;such&lt;/i&gt; thing" in refused.text
    assert owner.get("/nothing").status == 404
    with pytest.raises(
        ZeroDivisionError
    ):  # the server logs it; what was sent before is looked at over a socket
        owner.get("/fails")


@pytest.mark.parametrize(
    "name", ["site.py", "..%2fsite.py", "../site.py", "page.css/", "%2e%2e/guard.py", ".", ""]
)
def test_only_the_files_of_the_page_are_served(owner: Visitor, name: str) -> None:
    assert owner.get(f"/static/{name}").status in (404, 307)
    assert owner.get("/static/page.css").status == 200


def test_no_file_of_the_look_loads_anything_from_elsewhere() -> None:
    import fedjob.common.pages.site as site

    files = [file for file in Path(site.__file__).parent.glob("*/*") if file.parent.name != "__pycache__"]
    assert files
    for file in files:
        text = file.read_text()
        loads = [
            word for word in ("://", "@import", "url(", " style=", " onclick", "<script>") if word in text
        ]
        assert loads == [], f"{file.name}: the policy lets none of it work"


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://a.example", "https://a.example"),
        ("https://A.example:443/", "https://a.example"),
        ("https://a.example:8443", "https://a.example:8443"),
        ("http://localhost:9000", "http://localhost:9000"),
    ],
)
def test_the_outer_address_is_read_as_browsers_write_it(url: str, origin: str) -> None:
    assert check_outer_url(url) == origin


@pytest.mark.parametrize(
    "url",
    ["", "a.example", "http://a.example", "https://", "https://a.example/path", "https://u@a", "https://a:x"],
)
def test_another_outer_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="expected the address of a web server with TLS"):
        check_outer_url(url)


def test_a_field_is_one_text() -> None:
    assert field_of({"a": [" x "]}, "a") == "x"
    assert field_of({}, "a") == ""
    for values in (["x", "y"], ["x\0"]):
        with pytest.raises(ConfigError, match="no single text"):
            field_of({"a": values}, "a")


def test_numbers_and_sizes_are_read_at_a_glance() -> None:
    assert [size_text(n) for n in (0, 999, 1000, 25_300_000, 3e12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "25.3 MB",
        "3.0 TB",
    ]
    assert [number_text(n) for n in (12, 1234567, 0.25)] == ["12", "1,234,567", "0.25"]
    assert visible_text("a\u202eb\tc\x1b") == "a\ufffdb\tc\ufffd"
