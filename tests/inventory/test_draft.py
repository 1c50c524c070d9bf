"""What a step says about the nodes to read again."""

from collector.inventory.draft import Draft
from collector.model import Place

NOW, SOON, LATER = Place("east", "now"), Place("east", "soon"), Place("east", "later")


def test_a_delay_of_less_than_a_second_is_a_delay() -> None:
    draft = Draft()
    draft.verify = {NOW: 0.0, SOON: 0.5, LATER: 60.0}
    step = draft.done()
    assert (step.verify, step.verify_later) == ((NOW,), {SOON: 0.5, LATER: 60.0})
