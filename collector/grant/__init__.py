"""The minimal rights of a collector in a cluster: manifests, granting and revoking, and tokens."""
