"""The links of the faults do what their states say."""

import gc
import socket
from collections.abc import Iterator

import httpx
import pytest

from tests.faults.link import Link, State, linked
from tests.support.receiver import Receiver, receiving


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture
def link(receiver: Receiver) -> Iterator[Link]:
    with linked({"hook": receiver.url}) as links:
        yield links["hook"]


def post(link: Link, *, seconds: float = 20.0) -> int | str:
    try:
        return httpx.post(link.url, content=b"[]", timeout=seconds).status_code
    except httpx.ConnectError:
        return "refused"
    except httpx.TimeoutException:
        return "nothing"
    except httpx.TransportError:
        return "broken"


@pytest.mark.parametrize(
    ("state", "answer", "received"),
    [
        (State.FORWARDING, 202, 1),
        (State.SLOW, 202, 1),
        (State.REFUSING, "refused", 0),
        (State.RESETTING, "broken", 0),
        (State.HALF, "broken", 1),
    ],
)
def test_each_state_has_its_answer(link, receiver, state, answer, received):
    link.become(state)
    assert post(link) == answer
    assert len(receiver.requests) == received
    link.become(State.FORWARDING)
    assert post(link) == 202


def test_what_was_frozen_arrives_later(link, receiver):
    link.become(State.FROZEN)
    assert post(link, seconds=0.1) == "nothing"
    assert receiver.requests == []
    link.become(State.FORWARDING)
    assert post(link) == 202


@pytest.mark.parametrize("state", [State.REFUSING, State.RESETTING])
def test_open_connections_end(link, state):
    with socket.create_connection(("127.0.0.1", link.port), timeout=20) as one:
        one.sendall(b"POST / HTTP/1.1\r\n")
        link.become(state)
        with pytest.raises(ConnectionResetError):
            one.recv(1)


def test_a_connection_that_comes_while_the_link_ends_is_closed(link):
    for _ in range(30):
        with socket.create_connection(("127.0.0.1", link.port), timeout=20):
            link.become(State.REFUSING)
        link.become(State.FORWARDING)
    gc.collect()  # what was left open would be a ResourceWarning
