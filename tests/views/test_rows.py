"""The rows that the API, CSV files and the command line share."""

from collector.model import Gpu, Place, Placement
from collector.views.columns import GPU_COLUMNS
from collector.views.rows import gpu_row
from tests.web.conftest import Site


def test_a_gpu_has_a_value_for_every_column() -> None:
    site = Site()
    site.read("prod-a", "n1", Gpu(uuid="GPU-a1"))
    (placement,) = site.inventory.find(uuid="GPU-a1")
    absent = Placement(gpu=placement.gpu, place=Place("prod-a", "n2"), since=1.0, confirmed=2.0)
    for one in (placement, absent):
        assert tuple(gpu_row(site.collector, one)) == GPU_COLUMNS
