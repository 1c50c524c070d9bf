"""The table of decoders: what takes foreign input, the errors that it documents, and what it is tried on.

Any other error is a fault: it would end a task, a request or a command that was to report what is wrong.
"""

from tests.fuzz import (
    commands,
    configuration,
    connections,
    credentials,
    exposed,
    kubernetes,
    nodes,
    servers,
    simulated,
    sinks,
    site,
    stored,
    texts,
)
from tests.fuzz.target import Target, Targets

__all__ = ["TARGETS", "Target"]

TARGETS: Targets = {
    **kubernetes.TARGETS,
    **servers.TARGETS,
    **simulated.TARGETS,
    **credentials.TARGETS,
    **configuration.TARGETS,
    **nodes.TARGETS,
    **connections.TARGETS,
    **sinks.TARGETS,
    **site.TARGETS,
    **stored.TARGETS,
    **exposed.TARGETS,
    **commands.TARGETS,
    **texts.TARGETS,
}
