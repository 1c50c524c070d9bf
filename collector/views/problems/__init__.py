"""What is wrong with configuration, store, sinks, clusters, nodes and GPUs: folded, ranked, with reason and remedy.

Single troubles come from the collector itself (`collector_troubles.py`), from each cluster (`cluster_troubles.py`) and
from each node (`node_troubles.py`). Within a cluster a cause swallows its consequences. Then the troubles of one kind
share a row, however many nodes and clusters have them (`trouble.py`), and each row is put into words (`wording.py`).
`current.py` has the problems of a running collector.
"""
