"""The fleet in memory: every reading goes in, and what it changed comes out."""

from collector.inventory.inventory import Inventory
from collector.inventory.mirroring import MirroringInventory

__all__ = ["Inventory", "MirroringInventory"]
