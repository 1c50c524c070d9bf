"""The fleet in memory: applies readings, knows where every GPU is, and emits what changed."""

from collector.inventory.inventory import Inventory
from collector.inventory.node import NodeEntry, NodeSnapshot

__all__ = ["Inventory", "NodeEntry", "NodeSnapshot"]
