"""The URLs that the page links to, below the path prefix that a proxy may add."""

from urllib.parse import quote, urlsplit

from collector.model import Place
from collector.text import one_line
from collector.views.paths import address, anchor, cluster_url, gpu_url, node_url
from collector.views.problems.problem import Problem

__all__ = [
    "address",
    "chassis_url",
    "cluster_url",
    "gpu_history_path",
    "gpu_url",
    "gpus_url",
    "node_history_path",
    "node_url",
    "problem_anchor",
    "problem_url",
    "search_url",
    "ticket_name",
    "ticket_url",
]

MAX_TICKET_NAME_LENGTH = 40  # characters


def gpus_url(**filters: str) -> str:
    """Return the URL of the list of GPUs that match the filters."""
    return address("/gpus", filters)


def chassis_url(chassis: str) -> str:
    """Return the address of a chassis's page."""
    return f"/chassis/{quote(chassis, safe='')}"


def gpu_history_path(uuid: str) -> str:
    """Return the path of a GPU's history, below the API's own."""
    return f"{gpu_url(uuid)}/history"


def node_history_path(place: Place) -> str:
    """Return the path of a node's history, below the API's own."""
    return f"/nodes/{quote(place.node, safe='')}/history"


def problem_url(problem: Problem) -> str:
    """Return the URL of the page with more about a problem; empty if there is none."""
    return problem.url


def problem_anchor(problem: Problem) -> str:
    """Return the fragment of a problem on the page of all problems."""
    return anchor(problem.id)


def search_url(term: str) -> str:
    """Return the address of the search for a term."""
    return address("/search", {"q": term})


def ticket_url(ticket: str) -> str:
    """Return the URL of a mark's ticket; empty for a name, and for URLs that must not be linked."""
    try:
        url = urlsplit(ticket)
        is_safe = url.scheme in ("http", "https") and bool(url.hostname) and "@" not in url.netloc
    except ValueError:
        return ""
    return ticket if is_safe and ticket.isprintable() and " " not in ticket else ""


def ticket_name(ticket: str) -> str:
    """Return a short name for a ticket's URL: the last part of its path, or the host."""
    url = urlsplit(ticket_url(ticket))
    return one_line(url.path.rstrip("/").rpartition("/")[2] or url.netloc or ticket, MAX_TICKET_NAME_LENGTH)
