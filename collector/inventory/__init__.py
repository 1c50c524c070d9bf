"""The fleet in memory: readings go in, and changes come out."""

from collector.inventory.inventory import Inventory
from collector.inventory.mirroring import MirroringInventory

__all__ = ["Inventory", "MirroringInventory"]
