"""One kind of finding for clusters, stores and sinks."""
