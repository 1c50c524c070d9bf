"""The fleet in memory: every reading goes in, and what it changed comes out."""

from collector.inventory.inventory import Inventory

__all__ = ["Inventory"]
