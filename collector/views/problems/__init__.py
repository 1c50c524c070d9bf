"""Problems of configuration, store, sinks, clusters, nodes and GPUs: merged, ranked, with reason and remedy.

Single troubles come from the collector itself (`collector_troubles.py`), from each cluster (`cluster_troubles.py`) and
from each node (`node_troubles.py`). Within a cluster, a cause absorbs its consequences. Troubles of one kind then
share a row, however many nodes and clusters have them (`trouble.py`), and each row is worded (`wording.py`).
`current.py` has the problems of a running collector.
"""
