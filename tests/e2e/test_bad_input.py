"""Wrong arguments, plans that fail, commands mistyped: who can act is told what, and every node goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fedjob import FedAvg, Job, JobFailed, Quorum, TorchPlan, connect
from fedjob.common.errors import NoDatasets, NotPermitted, PlanError, RepositoryUnreachable, SpecError
from fedjob.identity.enrolment import save_membership
from fedjob.identity.membership import load_membership
from tests.data import TRAINING
from tests.e2e.conftest import NODES, one_broker
from tests.e2e.federation import PATIENCE_S, Federation
from tests.e2e.plans import FailsAtOne, Misbehaves, NeedsMore, Points
from tests.processes import wait_until

pytestmark = [pytest.mark.timeout(400), one_broker]

THREE = list(NODES[:3])
BAD = THREE[1]


def make_job(federation: Federation, plan: object = Points, **changes: object) -> Job:
    arguments = {
        "data": {"tags": ["points"]},
        "nodes": THREE,
        "training_args": TRAINING,
        "rounds": 1,
        "seed": 1,
    }
    return Job(FedAvg(), training_plan=plan, session=federation.session(), **{**arguments, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make files that are no data."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "empty.csv").write_bytes(b"")
    (folder / "noise.npz").write_bytes(b"PK\x03\x04" + bytes(range(256)))
    (folder / "some.xyz").write_text("1 2 3")
    (folder / "numbers.csv").write_text("1,2,3\n4,5,6\n")
    (folder / "fine.csv").write_text("a,b\n1,2\n")
    return folder


class NoStep(TorchPlan):
    """Lacks the method that trains."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return None

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return None

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        return None


class TestArguments:
    """What a researcher is told at once, before anything was started."""

    @pytest.mark.parametrize(
        ("wrong", "says"),
        [
            ({"rounds": 0}, "rounds"),
            ({"training_args": {"learning_rats": 1, **TRAINING}}, "learning_rats"),
            ({"training_args": {**TRAINING, "num_updates": -1}}, "num_updates"),
            ({"training_args": {**TRAINING, "test_metric": "acuracy"}}, "accuracy"),
            ({"plan": NoStep}, "training_step"),
            ({"init": {}}, "init"),
        ],
    )
    def test_a_wrong_argument_is_named_and_no_job_is_left(
        self, federation: Federation, wrong: dict[str, object], says: str
    ) -> None:
        jobs = set((federation.session().home / "jobs").glob("*"))
        with pytest.raises(SpecError, match=says):
            make_job(federation, **wrong)
        assert set((federation.session().home / "jobs").glob("*")) == jobs

    def test_a_plan_that_does_not_compile_is_named_with_its_line(
        self, federation: Federation, tmp_path: Path
    ) -> None:
        path = tmp_path / "broken.py"
        path.write_text("import torch\n\nclass Net(TorchPlan:\n    pass\n")
        with pytest.raises(PlanError, match=r"broken\.py.*line 3"):
            make_job(federation, f"{path}:Net")

    @pytest.mark.feature("FB-08")
    def test_where_nothing_matches_what_there_is_is_listed(self, federation: Federation) -> None:
        with pytest.raises(NoDatasets, match=r"clinic-1/points-of-clinic-1"):
            make_job(federation, data={"tags": ["pionts"]}, nodes=None).run(progress=False)
        with pytest.raises(NoDatasets, match="nowhere"):
            make_job(federation, nodes=["nowhere"]).run(progress=False)
        with pytest.raises(SpecError, match="nowhere"):
            make_job(federation, quorum=Quorum(required=("nowhere",))).run(progress=False)
        with pytest.raises(SpecError, match="data="):
            make_job(federation, data=3).run(progress=False)
        job = make_job(federation)
        job.run(progress=False)
        assert set(job.spec.datasets) == set(THREE) == set(job.rounds[1].selected)

    def test_a_hub_that_is_not_there_is_said_at_once(
        self, free_port: Callable[[], int], tmp_path: Path, federation: Federation
    ) -> None:
        url = f"http://127.0.0.1:{free_port()}"
        with pytest.raises(RepositoryUnreachable, match=url):
            connect(hub=url, home=tmp_path / "new", id="somebody")
        with pytest.raises(SpecError, match="htp"):
            connect(hub="htp:/x", home=tmp_path / "new", id="somebody")
        home = copy_home(federation, tmp_path / "moved", hub_url=url)
        for command in ("nodes", "data"):
            assert url in federation.cli(command, home=home, expect=2).stderr
        assert "fedjob hub start" in federation.cli("doctor", home=home, expect=1).stdout

    def test_a_wrong_token_is_refused(self, federation: Federation, tmp_path: Path) -> None:
        home = copy_home(federation, tmp_path / "stolen", token="0" * 64)
        with pytest.raises(NotPermitted):
            connect(home=home)
        federation.cli("nodes", home=home, expect=2)

    def test_an_id_that_is_taken_by_another_key_is_refused(
        self, federation: Federation, tmp_path: Path
    ) -> None:
        with pytest.raises(NotPermitted, match="clinic-1"):
            connect(hub=federation.url, home=tmp_path / "thief", id="clinic-1")


def copy_home(federation: Federation, home: Path, **changes: str) -> Path:
    """Copy the researcher's home and change its membership."""
    lab = federation.session().home
    shutil.copytree(lab, home, ignore=shutil.ignore_patterns("jobs"))
    save_membership(home, replace(load_membership(home), **changes))  # type: ignore[arg-type]
    return home


class TestPlans:
    """One node of three fails: it is named with its reason, the others count, and it goes on working."""

    @pytest.mark.parametrize(
        ("how", "reason"),
        [
            ("nan", "not_finite"),
            ("shape", "bad_shape: "),
            ("names", "bad_names: "),
            ("exit", "worker_died"),
            ("sysexit", "exception: SystemExit"),
        ],
    )
    @pytest.mark.feature("FB-12", "FB-61", "FB-63")
    def test_a_node_whose_plan_misbehaves_is_left_out(
        self, federation: Federation, how: str, reason: str
    ) -> None:
        args = {**TRAINING, "at": BAD, "how": how, "test_on_local_updates": False}
        job = make_job(federation, Misbehaves, training_args=args, rounds=2)
        job.run(progress=False)
        for info in job.rounds.values():
            assert info.selected == tuple(THREE)
            assert info.replied == (THREE[0], THREE[2])
            assert list(info.dropped) == [BAD]
        assert job.rounds[1].dropped[BAD].startswith(reason)
        assert federation.nodes[BAD].process.alive  # type: ignore[union-attr]
        well = make_job(federation, nodes=[BAD])
        well.run(progress=False)
        assert well.success

    @pytest.mark.feature("FB-61")
    def test_an_exception_is_told_by_class_and_line_and_without_its_values(
        self, federation: Federation
    ) -> None:
        job = make_job(federation, FailsAtOne, training_args={**TRAINING, "fails_at": BAD})
        job.run(progress=False)
        assert job.rounds[1].replied == (THREE[0], THREE[2])
        number = next(
            index
            for index, line in enumerate(job.training_plan_file.read_text().splitlines(), 1)
            if "raise ValueError" in line
        )
        assert job.rounds[1].dropped[BAD] == f"exception: ValueError at plan line {number}"
        assert not [event for event in job.events() if "secret" in str(event)]
        assert "secret value" in federation.nodes[BAD].log()  # the node's owner may know

    def test_where_all_fail_the_job_fails_and_names_each(self, federation: Federation) -> None:
        job = make_job(federation, FailsAtOne, training_args={**TRAINING, "fails_at": BAD}, nodes=[BAD])
        with pytest.raises(JobFailed, match=rf"{BAD}: exception: ValueError") as caught:
            job.run(progress=False)
        assert caught.value.reason == job.reason == "quorum_lost"
        assert job.state == "failed"

    @pytest.mark.feature("FB-18")
    def test_a_missing_package_is_said_before_the_first_round(self, federation: Federation) -> None:
        job = make_job(federation, NeedsMore)
        with pytest.raises(JobFailed, match="a_package_that_nobody_has") as caught:
            job.run(progress=False)
        assert "missing_packages" in str(caught.value)
        assert not [event for event in job.events() if event.type == "ask"]

    @pytest.mark.feature("FB-60")
    def test_what_never_ends_is_ended_at_the_quorums_deadline(self, federation: Federation) -> None:
        make_job(federation).run(progress=False)  # torch is imported everywhere
        args = {**TRAINING, "at": BAD, "how": "forever"}
        job = make_job(federation, Misbehaves, training_args=args, quorum=Quorum(min_nodes=2, deadline_s=15))
        job.run(progress=False)
        assert job.rounds[1].replied == (THREE[0], THREE[2])
        assert job.rounds[1].dropped[BAD].split(":")[0] in ("deadline", "timeout")
        idle = lambda: not any(w["busy"] for w in federation.nodes[BAD].status()["worker_processes"])  # noqa: E731
        wait_until(idle, timeout_s=PATIENCE_S, what="the node to end the work")

    def test_what_never_ends_is_ended_at_the_nodes_own_limit(self, federation: Federation) -> None:
        node = federation.nodes[BAD]
        node.stop()
        node.set(task_limit_s=2).start()
        try:
            args = {**TRAINING, "at": BAD, "how": "forever"}
            job = make_job(federation, Misbehaves, training_args=args)
            job.run(progress=False)
        finally:
            node.set(task_limit_s=86400)
        assert job.rounds[1].dropped[BAD].startswith("timeout")
        assert job.rounds[1].replied == (THREE[0], THREE[2])


class TestCommands:
    """A mistyped command is answered in a line that says what to do."""

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (("data", "add", "x", "/no/such/file.csv"), "/no/such/file.csv"),
            (("data", "add", "x", "{odd}/empty.csv"), "empty.csv"),
            (("data", "add", "x", "{odd}/noise.npz"), "noise.npz"),
            (("data", "add", "x", "{odd}/some.xyz"), "some.xyz"),
            (("data", "add", "x", "{odd}/fine.csv", "--reader", "cvs"), "csv"),
            (("data", "add", "x", "{odd}/fine.csv", "--option", "heder=no"), "header"),
            (("data", "add", "x", "{odd}/fine.csv", "--option", "header"), "KEY=VALUE"),
            (("data", "add", "../x", "{odd}/fine.csv"), "../x"),
            (("data", "add", "points-of-clinic-1", "{odd}/fine.csv"), "already"),
            (("data", "show", "points-of-clinic-2"), "points-of-clinic-1"),
            (("data", "remove", "nothing"), "nothing"),
            (("grants", "show", "nothing"), "nothing"),
            (("grants", "approve", "nothing"), "nothing"),
            (("config", "set", "aproval", "off"), "approval"),
            (("config", "set", "approval", "maybe"), "maybe"),
            (("config", "set", "workers", "many"), "workers"),
            (("start",), "already"),
            (("init", "--id", "other", "--hub", "http://127.0.0.1:1"), "clinic-1"),
            (("init", "--id", "clinic-1"), "--hub"),
        ],
    )
    def test_a_nodes_owner_is_told_what_is_wrong(
        self, federation: Federation, odd: Path, words: tuple[str, ...], says: str
    ) -> None:
        node = federation.nodes["clinic-1"]
        done = node.cli(*(word.replace("{odd}", str(odd)) for word in words), expect=None)
        assert done.returncode in (1, 2)
        assert done.stderr.startswith(("fedjob: ", "Usage: "))
        assert says in done.stderr
        assert len(done.stderr.splitlines()) <= 4

    def test_a_first_row_that_looks_like_data_is_noticed(self, federation: Federation, odd: Path) -> None:
        node = federation.nodes["clinic-1"]
        done = node.cli("data", "add", "numbers", str(odd / "numbers.csv"))
        assert "--option header=no" in done.stderr
        node.cli("data", "remove", "numbers")

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (("verify", "job_nothing"), "job_nothing"),
            (("job", "show", "../../etc"), "../../etc"),
            (("nodes", "--jason"), "--json"),
            (("node", "status"), "fedjob node init"),
            (("hub", "status"), "fedjob hub start"),
            (("init", "--id", "Not A Name", "--hub", "http://127.0.0.1:1"), "a-z"),
        ],
    )
    def test_a_researcher_is_told_what_is_wrong(
        self, federation: Federation, words: tuple[str, ...], says: str, tmp_path: Path
    ) -> None:
        home = tmp_path / "home" if words[0] in ("init", "node", "hub") else federation.session().home
        done = federation.cli(*words, home=home, expect=None)
        assert done.returncode in (1, 2)
        assert says in done.stderr
