"""Where everything is: the addresses that the page links to."""

from collections.abc import Mapping
from urllib.parse import quote, urlencode

from collector.model import Place

__all__ = ["address", "cluster_url", "gpu_url", "node_history", "node_url", "search_url"]


def cluster_url(cluster: str) -> str:
    """Give the address of a cluster's page."""
    return f"/clusters/{quote(cluster, safe='')}"


def node_url(place: Place) -> str:
    """Give the address of a node's page."""
    return f"{cluster_url(place.cluster)}/nodes/{quote(place.node, safe='')}"


def gpu_url(uuid: str) -> str:
    """Give the address of a GPU's page."""
    return f"/gpus/{quote(uuid, safe='')}"


def node_history(place: Place) -> str:
    """Give the path below the API's of what sat in a node."""
    return f"/nodes/{quote(place.node, safe='')}/history"


def search_url(term: str) -> str:
    """Give the address of what a search finds."""
    return address("/search", {"q": term})


def address(path: str, query: Mapping[str, object]) -> str:
    """Put a path and a query together; what is empty or None is left out."""
    given = {key: value for key, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(given)}" if given else path
