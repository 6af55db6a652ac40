"""The researcher's page over its application and over real connections: what it shows, what it changes, and attacks."""

from __future__ import annotations

import http.client
import io
import json
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, urlsplit
from urllib.request import urlopen

import pytest

from fedjob import Job
from fedjob.common.errors import ConfigError
from fedjob.common.pages.guard import SECURITY_HEADERS
from fedjob.researcher.dossier.signed_file import open_dossier
from fedjob.researcher.jobs.session import HomeJobs
from fedjob.researcher.storage.event_log import EventLog
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.index import list_entries
from fedjob.researcher.storage.record import load_record
from tests.asgi import Answer, Visitor, call
from tests.owner_houses import TEXT, Opened
from tests.researcher_homes import (
    RunningJob,
    ended,
    long_log,
    made_up,
    many_jobs,
    served_jobs,
    trained,
    with_evil_texts,
)

FORM = "application/x-www-form-urlencoded"
VERBS = ("cancel", "stop", "kill", "restart", "clone", "submit", "download", "dossier")
PARTS = ("", "/result", "/log", "/settings")


@dataclass(frozen=True, slots=True)
class JobScene:
    """A home with a trained job and its clone's origin, one that runs, and one with hostile texts."""

    home: Path
    opened: Opened
    visitor: Visitor
    done: Job
    other: Job
    running: RunningJob
    evil: JobFolder

    def get(self, path: str, query: str = "") -> Answer:
        return self.visitor.get(path, query)

    def states(self) -> dict[str, tuple[str, int]]:
        """Everything that a form could change."""
        return {entry.id: (entry.state, entry.attempt) for entry in list_entries(self.home)}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobScene]:
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("data")
    done = trained(home, folder)
    other = trained(home, folder, "faster", training_args={**done.params["training_args"], "lr": 0.2})
    running = RunningJob(home, name="at-work")
    running.begin_round(1)
    running.reports(1, "clinic-bern", 0.7, 10)
    running.reports(1, "clinic-bern", 0.5, 20)
    evil = with_evil_texts(home)
    with served_jobs(home) as opened:
        visitor = Visitor(opened.site, opened.origin)
        assert visitor.enter().status == 303
        yield JobScene(home, opened, visitor, done, other, running, evil)
    running.close()


# --- what it shows --------------------------------------------------------------------------------


def test_the_list_names_every_job_with_its_state(scene: JobScene) -> None:
    text = scene.get("/jobs").text
    for word in ("risk", "faster", "at-work", "completed", "running", "failed", "round 0 of 20"):
        assert word in text
    assert "at-work" not in scene.get("/jobs", "state=history").text
    assert "faster" not in scene.get("/jobs", "q=at-work").text
    assert "There are no such jobs" in scene.get("/jobs", "q=nothing-of-this-name").text


def test_a_job_that_ended_shows_metrics_times_and_participants_of_its_rounds(scene: JobScene) -> None:
    text = scene.get(f"/jobs/{scene.done.id}").text
    assert text.count('<svg class="chart"') >= 2, "accuracy and loss"
    assert "2 <small" in text
    assert "Round 3 (train)" in text
    for stage in ("compute", "aggregate"):
        assert f'class="stage-{stage}"' in text
    assert "<title>north, round 2: took part</title>" in text
    assert "Round 1 (train)" in scene.get(f"/jobs/{scene.done.id}", "round=1").text


def test_a_running_job_shows_what_its_nodes_report_now(scene: JobScene) -> None:
    text = scene.get(f"/jobs/{scene.running.folder.path.name}").text
    assert "while nodes train in round 1" in text
    assert "so far" in text
    assert '<progress max="100" value="50">' in text, "clinic-bern has done 20 of 40 steps"


def test_of_many_nodes_a_page_lists_some_and_says_how_many_there_are(tmp_path: Path) -> None:
    nodes = [f"clinic-{number:03}" for number in range(70)]
    datasets = {node: {"name": "heart", "num_rows": 100} for node in nodes}
    folder = made_up(tmp_path, ended(), datasets=datasets)
    events = EventLog(folder.events, folder.path.name)
    events.add("ask", round_=1, step="train", nodes=nodes)
    events.add("round", round_=1, nodes=nodes, left_out={}, seconds=1.0)
    events.close()
    with served_jobs(tmp_path) as opened:
        visitor = Visitor(opened.site, opened.origin)
        assert visitor.enter().status == 303
        text = visitor.get(f"/jobs/{folder.path.name}").text
    assert "60 of 70 nodes; <code>job.participation</code> has all" in text
    assert "60 of 70 nodes.</p>" in text, "of the times as well"
    rows = set(re.findall(r'<th scope="row" data-label="Node">(?:<span>)?(clinic-\d+)', text))
    assert rows == set(nodes[:60])


def test_the_result_is_shown_as_tables_and_as_a_picture(scene: JobScene) -> None:
    text = scene.get(f"/jobs/{scene.done.id}/result").text
    assert "Result after 3 rounds" in text
    assert "all nodes" in text
    picture = scene.get(f"/jobs/{scene.done.id}/picture.svg")
    assert picture.header("content-type") == "image/svg+xml"
    assert picture.body.startswith(b"<?xml")
    assert "There is no result yet" in scene.get(f"/jobs/{scene.running.folder.path.name}/result").text


def test_jobs_side_by_side_show_the_settings_that_differ_and_those_alone(scene: JobScene) -> None:
    text = scene.get("/compare", f"job={scene.done.id}&job={scene.other.id}").text
    assert "training_args.lr" in text
    assert ">0.05<" in text
    assert ">0.2<" in text
    assert "training_args.epochs" not in text
    assert text.count("<polyline") >= 4, "two jobs in each of two pictures"
    assert "There is no job job_x here." in scene.get("/compare", "job=job_x").text


def test_the_download_and_the_dossier_are_those_of_the_commands(scene: JobScene) -> None:
    answer = scene.visitor.post(f"/jobs/{scene.done.id}/download")
    assert answer.status == 200
    assert "attachment" in answer.header("content-disposition")
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        names = {name.partition("/")[2] for name in archive.namelist()}
    assert {"record.json", "metrics.csv", "result/params.safetensors", "plan.py"} <= names
    dossier = scene.visitor.post(f"/jobs/{scene.done.id}/dossier")
    found = open_dossier(dossier.body)
    assert found.problems == ()
    assert found.content["job"]["id"] == scene.done.id
    refused = scene.visitor.post(f"/jobs/{scene.running.folder.path.name}/download")
    assert refused.status == 303


# --- what it changes ------------------------------------------------------------------------------


def test_a_clone_is_a_draft_with_the_changes_and_is_submitted_stopped_and_killed_as_by_commands(
    scene: JobScene,
) -> None:
    form = {"name": "longer", "changes": 'rounds=5\ntraining_args={"lr": 0.3, "epochs": 1, "batch_size": 16}'}
    answer = scene.visitor.post(f"/jobs/{scene.done.id}/clone", form)
    made = answer.header("location").rpartition("/")[2]
    job = Job.open(scene.home / "jobs" / made)
    assert (job.state, job.name, job.spec.rounds, job.spec.cloned_from) == (
        "draft",
        "longer",
        5,
        scene.done.id,
    )
    assert job.params["training_args"]["lr"] == 0.3
    assert scene.visitor.post(f"/jobs/{made}/submit").status == 303
    assert "It was submitted" in scene.get(f"/jobs/{made}").text
    job.wait(timeout_s=120)
    assert job.state == "completed"
    assert scene.visitor.post(f"/jobs/{made}/restart", {"rounds": "6"}).status == 303
    job.wait(timeout_s=120)
    assert (job.state, job.attempts, job.record.rounds) == ("completed", 2, 6)
    scene.visitor.post(f"/jobs/{made}/kill")
    assert "there is nothing to kill" in scene.get(f"/jobs/{made}").text


def test_a_running_job_is_asked_to_stop(scene: JobScene) -> None:
    id_ = scene.running.folder.path.name
    assert scene.visitor.post(f"/jobs/{id_}/stop").status == 303
    assert "It ends after its round." in scene.get(f"/jobs/{id_}").text
    asked = [path.name for path in scene.running.folder.inbox.iterdir()]
    assert asked == ["stop"]
    (scene.running.folder.inbox / "stop").unlink()


WRONG = {
    "a field that there is not": ("clone", {"changes": "ronds=3"}, "did you mean"),
    "no field": ("clone", {"changes": "rounds"}, "expected a change a line"),
    "a value that is none": ("clone", {"changes": "rounds=-1"}, "rounds"),
    "deep JSON": ("clone", {"changes": "rounds=" + "[" * 5000}, "rounds"),
    "too many lines": ("clone", {"changes": "a=1\n" * 50}, "at most 32 lines"),
    "a null byte": ("clone", {"changes": "rounds=\0"}, "no single text"),
    "hostile": ("clone", {"changes": TEXT.replace("\0", "")}, "expected a change a line"),
    "rounds that are none": ("restart", {"rounds": "many"}, "expected a whole number from 1"),
    "rounds of before": ("restart", {"rounds": "1"}, "lies before it"),
    "a job that has ended": ("cancel", {}, "there is nothing to cancel"),
    "a job that has ended long ago": ("stop", {}, "there is nothing to stop"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_can_not_be_done_is_one_sentence(scene: JobScene, what: str) -> None:
    verb, form, sentence = WRONG[what]
    before = scene.states()
    answer = scene.visitor.post(f"/jobs/{scene.other.id}/{verb}", form)
    shown = scene.get(answer.header("location")).text if answer.status == 303 else answer.text
    assert sentence in shown
    assert scene.states() == before


# --- attacks --------------------------------------------------------------------------------------


def forgery(scene: JobScene, how: str, path: str) -> Answer:
    visitor = scene.visitor
    host, cookie, token = urlsplit(visitor.origin).netloc, visitor.cookie, f"csrf={visitor.csrf}".encode()
    headers = {"host": host, "cookie": cookie, "origin": visitor.origin, "content-type": FORM}
    method, body = "POST", token
    match how:
        case "another page":
            headers["origin"] = "https://evil.example"
        case "no origin":
            del headers["origin"]
        case "another site":
            headers["sec-fetch-site"] = "cross-site"
        case "another name of this machine":
            headers |= {"host": "evil.example", "origin": "http://evil.example"}
        case "no word of the session":
            body = b""
        case "a guessed word":
            body = b"csrf=guess"
        case "two words":
            body = token + b"&" + token
        case "no session":
            del headers["cookie"]
        case "a made-up session":
            headers["cookie"] = cookie.partition("=")[0] + "=made-up"
        case "JSON":
            headers["content-type"] = "application/json"
        case "a link":
            method, body = "GET", b""
        case "another method":
            method = "PUT"
    return call(scene.opened.site.app, path, method=method, headers=list(headers.items()), body=body)


FORGERIES = [
    "another page", "no origin", "another site", "another name of this machine", "no word of the session", "a guessed word",
    "two words", "no session", "a made-up session", "JSON", "a link", "another method",
]  # fmt: skip


@pytest.mark.parametrize("how", FORGERIES)
@pytest.mark.parametrize("verb", VERBS)
def test_nothing_is_done_for_a_form_from(scene: JobScene, verb: str, how: str) -> None:
    before = scene.states()
    answer = forgery(scene, how, f"/jobs/{scene.done.id}/{verb}")
    assert answer.status in (403, 404, 405, 415, 421), answer.text
    assert scene.states() == before


ODD = {
    "the beginning of an id": "/jobs/{id:.12}",
    "an id and more": "/jobs/{id}x",
    "an id in capitals": "/jobs/JOB_{id}",
    "a pattern": "/jobs/job_*",
    "a file above": "/jobs/..%2f..%2fkeys",
    "a file above twice encoded": "/jobs/%252e%252e%252fkeys",
    "the folder above": "/jobs/..",
    "a file of the job": "/jobs/{id}/record.json",
    "a null byte": "/jobs/{id}%00",
    "a job that there is not": "/jobs/job_00000000-0000-4000-8000-000000000000",
    "hostile": "/jobs/" + quote(TEXT.replace("/", "")),
    "a template": "/static/job.html",
    "a file beside the style sheet": "/static/..%2fdesk.py",
}


@pytest.mark.parametrize("what", ODD)
def test_an_address_that_is_none_shows_and_changes_nothing(scene: JobScene, what: str) -> None:
    path, before = ODD[what].format(id=scene.done.id), scene.states()
    assert scene.get(path).status == 404
    for verb in ("/kill", "/clone", "/download"):
        assert scene.visitor.post(path + verb).status == 404
    assert scene.states() == before


def test_a_job_folder_that_is_a_link_to_elsewhere_is_not_opened(scene: JobScene, tmp_path: Path) -> None:
    link = scene.home / "jobs" / "job_11111111-1111-4111-8111-111111111111"
    link.symlink_to(scene.done.folder)
    try:
        assert scene.get(f"/jobs/{link.name}").status == 404
    finally:
        link.unlink()


class Texts(HTMLParser):
    """What a browser would make of a page: scripts, handlers, links to others, and fields without a label."""

    def __init__(self) -> None:
        super().__init__()
        self.odd: list[str] = []
        self.labels: set[str] = set()
        self.fields: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        self.odd += [
            f"{tag} {key}"
            for key in found
            if key.startswith("on") or key in ("style", "srcdoc", "formaction")
        ]
        self.odd += (
            [tag] if tag in ("iframe", "object", "embed", "base", "style", "b-", "foreignobject") else []
        )
        if tag == "script" and found.get("src") != "/static/researcher.js":
            self.odd.append(f"script {found}")
        if tag == "img" and not found.get("src", "").startswith("/jobs/job_"):
            self.odd.append(f"img {found}")
        for key in ("href", "src", "action"):
            if not found.get(key, "/").startswith(("/", "#", "data:,")):
                self.odd.append(f"{key} {found[key]}")
        if tag == "label" and "for" in found:
            self.labels.add(found["for"])
        if tag in ("input", "select", "textarea") and found.get("type") not in ("hidden", "checkbox"):
            self.fields.append(found.get("id", "without an id"))


def pages(scene: JobScene) -> list[tuple[str, str]]:
    evil = scene.evil.path.name
    parts = [(f"/jobs/{id_}{part}", "") for id_ in (evil, scene.done.id) for part in PARTS]
    queries = [f"q={quote(TEXT)}", f"state={quote(TEXT)}", f"project={quote(TEXT)}", f"page={quote(TEXT)}"]
    return [
        *parts,
        *(("/jobs", query) for query in ("", *queries)),
        ("/compare", f"job={evil}&job={scene.done.id}"),
        ("/compare", f"job={quote(TEXT)}"),
        (f"/jobs/{evil}", f"round={quote(TEXT)}"),
        (f"/jobs/{evil}/log", f"node={quote(TEXT)}"),
    ]


@pytest.mark.parametrize("number", range(17))
def test_texts_of_others_are_texts_and_nothing_else(scene: JobScene, number: int) -> None:
    path, query = pages(scene)[number]
    answer = scene.get(path, query)
    assert answer.status == 200, answer.text
    texts = Texts()
    texts.feed(answer.text)
    assert texts.odd == []
    assert set(texts.fields) <= texts.labels
    assert [c for c in answer.text if not (c.isprintable() or c in "\n\t")] == [], "no sign deceives the eye"
    assert "426763565" not in answer.text
    for header, value in SECURITY_HEADERS.items():
        assert answer.header(header) == value


# --- live -----------------------------------------------------------------------------------------


def stream_of(scene: JobScene, path: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(urlsplit(scene.opened.origin).netloc, timeout=60)
    connection.request("GET", path, headers={"Cookie": scene.visitor.cookie})
    return connection, connection.getresponse()


def next_parts(response: http.client.HTTPResponse) -> dict[str, str]:
    while True:
        line = response.readline()
        assert line, "the stream ended"
        if line.startswith(b"data: ") and (found := json.loads(line[6:])):
            return dict(found)


def test_what_a_node_reports_comes_over_the_stream_within_seconds(scene: JobScene) -> None:
    connection, response = stream_of(scene, f"/jobs/{scene.running.folder.path.name}/live")
    try:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["content-security-policy"] == SECURITY_HEADERS["content-security-policy"]
        first = next_parts(response)
        assert {"job_state", "job_now", "job_metrics", "job_times", "job_nodes", "job_events"} == first.keys()
        scene.running.reports(1, "clinic-oslo", 0.25, 30)
        changed = next_parts(response)
        assert "clinic-oslo: 0.25" in changed["job_metrics"]
        assert "job_state" not in changed or changed["job_state"] != first["job_state"]
    finally:
        connection.close()


def test_a_stream_ends_with_its_session_and_is_not_opened_without_one(scene: JobScene) -> None:
    guest = Visitor(scene.opened.site, scene.opened.origin)
    assert guest.get("/live").status == 303
    guest.enter()
    connection = http.client.HTTPConnection(urlsplit(scene.opened.origin).netloc, timeout=60)
    connection.request("GET", "/live", headers={"Cookie": guest.cookie})
    response = connection.getresponse()
    try:
        assert "at-work" in next_parts(response)["jobs_live"]
        guest.post("/leave")
        assert response.read() is not None, "it ends"
    finally:
        connection.close()


def test_a_page_that_is_open_keeps_no_session_alive(scene: JobScene) -> None:
    guest = Visitor(scene.opened.site, scene.opened.origin)
    guest.enter()
    id_ = guest.cookie.partition("=")[2]
    session = scene.opened.site.sessions.find(id_)
    assert session is not None
    used = session.used
    assert scene.opened.site.sessions.is_open(id_)
    assert session.used == used
    session.used -= 2 * 3600
    assert not scene.opened.site.sessions.is_open(id_)


def test_whoever_did_not_sign_in_sees_the_door_alone(scene: JobScene) -> None:
    guest = Visitor(scene.opened.site, scene.opened.origin)
    for path in (
        "/jobs",
        "/compare",
        f"/jobs/{scene.done.id}",
        f"/jobs/{scene.done.id}/picture.svg",
        "/live",
    ):
        answer = guest.get(path)
        assert (answer.status, answer.header("location")) == (303, "/enter")


def test_a_job_whose_runner_died_is_lost_for_whoever_looks(tmp_path: Path) -> None:
    running = RunningJob(tmp_path, name="left-alone")
    running.close()
    with served_jobs(tmp_path) as opened:
        visitor = Visitor(opened.site, opened.origin)
        visitor.enter()
        assert "lost" in visitor.get("/jobs").text
        assert "the process that ran it is gone" in visitor.get(f"/jobs/{running.folder.path.name}").text
    assert load_record(running.folder.record).state == "lost"


# --- large homes, notebooks, the command ----------------------------------------------------------


def test_a_thousand_jobs_and_a_hundred_thousand_events_cost_less_than_a_second(tmp_path: Path) -> None:
    many_jobs(tmp_path, 999)
    running = RunningJob(tmp_path, name="at-work")
    long_log(running.folder, 100_000)
    with served_jobs(tmp_path) as opened:
        visitor = Visitor(opened.site, opened.origin)
        visitor.enter()
        for path in ("/jobs", f"/jobs/{running.folder.path.name}", f"/jobs/{running.folder.path.name}/log"):
            began = time.process_time()  # of this process, whatever else the machine does
            answer = visitor.get(path)
            assert time.process_time() - began < 1.0, path
            assert "at-work" in answer.text
        assert "1,000 jobs" in visitor.get("/jobs").text
        assert "job 0000" in visitor.get("/jobs", "page=20").text
    running.close()


def test_a_page_in_a_notebook_gives_its_link_and_ends(tmp_path: Path) -> None:
    page = HomeOfJobs(tmp_path).page()
    try:
        assert page.link != page.link, "each opens it once"
        assert "Open the page of your jobs" in page._repr_html_()
        assert 'target="_blank" rel="noopener"' in page._repr_html_()
        with urlopen(page.link.partition("#")[0], timeout=30) as answer:
            assert b"Sign in to this page" in answer.read()
        with pytest.raises(ConfigError, match="the page can't be shown on"):
            HomeOfJobs(tmp_path).page(port=urlsplit(page.link).port or 0)
    finally:
        page.close()
    assert page.closed
    assert repr(page) == "the page was closed"
    page.close()


class HomeOfJobs(HomeJobs):
    def __init__(self, home: Path) -> None:
        self.home = home


WITHOUT_JINJA = """
import sys
sys.modules["jinja2"] = None  # as it is where it is not installed
from fedjob.cli import main
sys.argv = ["fedjob", "page", "--home", sys.argv[1]]
main()
"""


def test_the_command_serves_the_page_until_it_is_ended_with_a_stream_open(tmp_path: Path) -> None:
    running = RunningJob(tmp_path / "home", name="at-work")
    command = [sys.executable, "-m", "fedjob", "page", "--home", str(tmp_path / "home")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        ready = re.search(r"page ready: http://(127\.0\.0\.1:\d+)/enter#(\S{40,})", process.stdout.readline())
        assert ready is not None
        connection = http.client.HTTPConnection(ready[1], timeout=60)
        headers = {"Origin": f"http://{ready[1]}", "Content-Type": FORM}
        connection.request("POST", "/enter", f"link={ready[2]}", headers)
        answer = connection.getresponse()
        answer.read()
        cookie = (answer.headers["set-cookie"] or "").split(";")[0]
        connection.request("GET", "/live", headers={"Cookie": cookie})
        assert "at-work" in next_parts(connection.getresponse())["jobs_live"]
        process.terminate()
        assert process.wait(30) == 0
        connection.close()
        assert process.stdout.read().endswith("page ended\n")
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait(30)
        process.stdout.close()
        process.stderr.close()
        running.close()


def test_without_the_extra_the_command_says_what_to_install(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", WITHOUT_JINJA, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.returncode != 0
    assert "pip install 'fedjob[page]'" in found.stderr
    assert "Traceback" not in found.stderr
