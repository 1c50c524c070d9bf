"""What the page links to."""

import pytest

from collector.web.pages.links import ticket_name, ticket_url


@pytest.mark.parametrize(
    ("ticket", "name"),
    [
        ("https://t.example/browse/OPS-7/", "OPS-7"),
        ("http://t.example", "t.example"),
        ("https://t.example/?id=7", "t.example"),
    ],
)
def test_a_ticket_url_is_a_link_with_a_short_name(ticket: str, name: str) -> None:
    assert (ticket_url(ticket), ticket_name(ticket)) == (ticket, name)


@pytest.mark.parametrize(
    "ticket",
    [
        *("", "OPS-7", "javascript:alert(1)", "JAVASCRIPT://a/%0aalert(1)", "data:text/html,x", "//t.example/x"),
        *(
            "https://",
            "https://user:word@t.example/x",
            "https://[::1",
            "https://t.example/a b",
            "https://t.example/\u202ex",
        ),
    ],
)
def test_no_other_ticket_is_a_link(ticket: str) -> None:
    assert ticket_url(ticket) == ""
