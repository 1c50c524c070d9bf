"""The paths of pages that several read models link to, below the prefix that a proxy may add."""

from collections.abc import Mapping
from urllib.parse import quote, urlencode

from collector.model import Place

__all__ = ["address", "anchor", "cluster_url", "gpu_url", "node_url"]


def cluster_url(cluster: str) -> str:
    """Return the path of a cluster's page."""
    return f"/clusters/{quote(cluster, safe='')}"


def node_url(place: Place) -> str:
    """Return the path of a node's page."""
    return f"{cluster_url(place.cluster)}/nodes/{quote(place.node, safe='')}"


def gpu_url(uuid: str) -> str:
    """Return the path of a GPU's page."""
    return f"/gpus/{quote(uuid, safe='')}"


def address(path: str, query: Mapping[str, object]) -> str:
    """Return a path with a query, without empty values and None."""
    given = {key: value for key, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(given)}" if given else path


def anchor(text: str) -> str:
    """Return a text as a URL fragment, which is also the id of its target."""
    kept = (
        letter if letter.isascii() and (letter.isalnum() or letter in "_-.:") else f"-{ord(letter):x}-"
        for letter in text
    )
    return "".join(kept)
