"""Who waits for a verifier, and which of its answers count."""

from __future__ import annotations

from collections.abc import Callable

from fedjob.identity.roster import Roster
from fedjob.messaging.messages import Message, Offer
from fedjob.node.config.config import NodeConfig
from fedjob.node.daemon.sender_verification import MAX_WAITING, Checked, SenderVerification
from fedjob.node.daemon.turn import Turn
from fedjob.node.queue.book import Book

SLOW = "issuer=http://127.0.0.1:9, client_id=x"


def offer(id_: str, proof: str = "") -> Message:
    return Message(
        to="site/main", id=id_, sender="ann", body=Offer(dataset="toy", protocol="fedavg", proof=proof)
    )


class World:
    """A verifier's threads and reports, held by the test."""

    def __init__(self, config: NodeConfig) -> None:
        self.jobs: list[Callable[[], None]] = []
        self.said: list[Checked] = []
        self.turn = Turn(Book())
        self.verifying = SenderVerification(config, Roster({}), self.jobs.append, self.said.append)

    def check(self, message: Message) -> Checked | None:
        assert isinstance(message.body, Offer)
        return self.verifying.check(self.turn, message, message.body, 1e9, is_taken=lambda: False)


def test_messages_wait_once_for_one_answer() -> None:
    world = World(NodeConfig(verifier="oidc", verifier_options=SLOW))
    for id_ in ("a", "a", "b"):
        assert world.check(offer(id_)) is None
    assert len(world.jobs) == 1
    world.jobs[0]()
    (checked,) = world.said
    assert "logged in" in checked.refusal
    assert [message.id for message in world.verifying.take(world.turn, checked)] == ["a", "b"]
    assert world.check(offer("c")) == checked  # known by now
    assert world.verifying.take(world.turn, checked) == ()


def test_an_answer_of_the_verifier_before_counts_no_more() -> None:
    world = World(NodeConfig(verifier="oidc", verifier_options=SLOW))
    world.check(offer("a"))
    world.verifying.configure(NodeConfig(verifier="oidc", verifier_options=f"{SLOW}, claim=sub"))
    world.jobs[0]()
    assert world.verifying.take(world.turn, world.said[0]) == ()
    assert world.check(offer("a")) is None
    assert len(world.jobs) == 2


def test_only_so_many_wait() -> None:
    world = World(NodeConfig(verifier="oidc", verifier_options=SLOW))
    for number in range(MAX_WAITING + 10):
        world.check(offer(str(number), proof=f"proof {number}"))
    assert len(world.jobs) == MAX_WAITING


def test_a_signature_is_enough_at_once() -> None:
    world = World(NodeConfig())
    checked = world.check(offer("a"))
    assert checked is not None
    assert not checked.refusal
    assert world.jobs == []


def test_what_waited_before_a_turn_waits_again_when_its_commit_fails() -> None:
    world = World(NodeConfig(verifier="oidc", verifier_options=SLOW))
    world.check(offer("a"))
    world.jobs[0]()
    world.turn = Turn(Book())
    world.check(offer("b"))
    assert [message.id for message in world.verifying.take(world.turn, world.said[0])] == ["a", "b"]
    world.turn.bring_back()
    assert [message.id for message in world.verifying.take(world.turn, world.said[0])] == ["a"]
