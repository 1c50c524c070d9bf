"""Values in the tree of a document, and which texts are values."""

import pytest
from lxml import etree

from collector.collect.smi_elements import Verbatim
from collector.collect.smi_output import BadOutputError, ContestedOutputError
from collector.collect.smi_tree import (
    GpuValues,
    Values,
    has_placeholders,
    parse_xml,
    read_document,
    read_gpu,
    take,
)
from collector.collect.smi_values import is_certain, known_value

PATH = Verbatim("fabric/state")


class TestParsing:
    def test_gives_the_root_without_comments_and_blanks(self) -> None:
        root = parse_xml(b"<a>\n<!-- x -->\n<?x y?>\n<b>1</b>\n</a>")
        assert [child.tag for child in root] == ["b"]
        assert root.text is None

    def test_refuses_what_is_not_xml(self) -> None:
        for text in (b"<a>", b"<a></b>", b""):
            with pytest.raises(etree.XMLSyntaxError):
                parse_xml(text)

    def test_recovers_if_asked(self) -> None:
        assert [child.tag for child in parse_xml(b"<a><b></c><d></d></a>", recover=True).iter()] == ["a", "b", "d"]
        with pytest.raises(BadOutputError, match=r"^not the XML of nvidia-smi: it has no elements$"):
            parse_xml(b"text", recover=True)

    @pytest.mark.parametrize("recover", [False, True])
    def test_refuses_elements_nested_too_deep(self, recover: bool) -> None:
        assert len([*parse_xml(b"<a>" * 200 + b"</a>" * 200, recover=recover).iter()]) == 200
        with pytest.raises(BadOutputError, match=r"^elements nested deeper than 256$"):
            parse_xml(b"<a>" * 300 + b"</a>" * 300, recover=recover)

    def test_resolves_no_entity(self) -> None:
        root = parse_xml(b'<!DOCTYPE a [<!ENTITY b "c">]><a><d>&b;</d></a>')
        assert root[0].text is None

    def test_needs_no_valid_ids(self) -> None:
        root = parse_xml(b'<a><b xml:id="1"/><c xml:id="x"/><d xml:id="x"/></a>')
        assert [child.tag for child in root] == ["b", "c", "d"]


class TestDocuments:
    def test_have_values_gpus_and_texts_between_them(self) -> None:
        root = parse_xml(
            b"<nvidia_smi_log>one<driver_version>1</driver_version>two<gpu><uuid>GPU-1</uuid></gpu>three"
            b"<gpus><uuid>GPU-2</uuid></gpus> <gpu><uuid>GPU-3</uuid></gpu></nvidia_smi_log>"
        )
        values = read_document(root, b"around", placeholders=False)
        assert values.fields == {"driver_version": "1"}
        assert [gpu.fields for gpu in values.gpus] == [{"uuid": "GPU-1"}, {"uuid": "GPU-3"}]
        assert values.said == b"around\none\ntwo\nthree"

    def test_have_256_gpus_at_most(self) -> None:
        values = Values(b"")
        for _ in range(256):
            values.add_gpu(GpuValues({}, {}, id=""))
        with pytest.raises(ContestedOutputError, match=r"^more than 256 GPUs on one node$"):
            values.add_gpu(GpuValues({}, {}, id=""))
        assert len(values.gpus) == 256

    def test_say_nothing_by_blanks(self) -> None:
        values = Values(b"around")
        for text in (None, "", " \n"):
            values.add_text(text)
        assert values.said == b"around"
        values.add_text("\ud800")
        assert values.said == b"around\n?"


def gpu(inside: str, *, placeholders: bool = True, attribute: str = "") -> GpuValues:
    return read_gpu(parse_xml(f"<gpu{attribute}>{inside}</gpu>".encode()), placeholders=placeholders)


class TestGpus:
    def test_have_fields_and_texts_about_health(self) -> None:
        values = gpu(
            "<uuid> GPU-1 </uuid><pci><pci_bus_id>1</pci_bus_id><pci_bus>2</pci_bus></pci>"
            "<fabric><state> Completed</state></fabric><serial>1<a/></serial>"
        )
        assert values.fields == {"uuid": "GPU-1", "pci_bus_id": "1"}
        assert values.health == {"fabric/state": " Completed"}
        assert (values.lost, values.reset, values.whole) == (False, False, True)

    @pytest.mark.parametrize(
        ("id", "inside", "bus"),
        [
            ("", "", None),
            ("1", "", "1"),
            ("1", "<pci><pci_bus_id>2</pci_bus_id></pci>", "2"),
            ("N/A", "", None),
            ("1" * 128, "", "1" * 128),
            ("1" * 129, "", None),
        ],
    )
    def test_have_their_address_as_an_attribute_too(self, id: str, inside: str, bus: str | None) -> None:  # noqa: A002
        assert gpu(inside, attribute=f' id="{id}"' if id else "").fields.get("pci_bus_id") == bus

    @pytest.mark.parametrize(
        ("inside", "lost", "reset"),
        [
            ("<a>GPU is lost</a>", True, False),
            ("<a><b> GPU is lost\n</b></a>", True, False),
            ("<a>GPU requires reset</a>", False, True),
            ("<a>GPU requires reset</a><a>GPU is lost</a>", True, True),
            ("<a>GPU is lost?</a>", False, False),
            ("<a/>", False, False),
        ],
    )
    def test_are_lost_or_require_a_reset_where_it_stands_for_a_value(
        self, inside: str, lost: bool, reset: bool
    ) -> None:
        values = gpu(inside)
        assert (values.lost, values.reset) == (lost, reset)
        values = gpu(inside, placeholders=False)
        assert (values.lost, values.reset) == (False, False)
        assert has_placeholders(inside.encode()) == ("GPU" in inside)


class TestTexts:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            (None, None),
            ("", None),
            (" N/A ", None),
            (" 1 ", "1"),
            ("1" * 128, "1" * 128),
            ("1" * 129, None),
            (" " * 129 + "1", "1"),
            (" " + "1" * 128, "1" * 128),
            (" " + "1" * 129, None),
        ],
    )
    def test_fill_a_field_if_known_and_short(self, text: str | None, value: str | None) -> None:
        fields: dict[str, str] = {}
        take("serial", text, fields, {})
        assert fields == ({} if value is None else {"serial": value})

    @pytest.mark.parametrize(
        ("text", "kept"),
        [
            (None, None),
            ("", None),
            (" N/A ", " N/A "),
            (" " + "1" * 39, " " + "1" * 39),
            (" " + "1" * 40, "1" * 40),
            (" " + "1" * 50, "1" * 41),  # one too many, so it does not count
            ("1" * 129, None),
        ],
    )
    def test_about_health_are_kept_as_they_are(self, text: str | None, kept: str | None) -> None:
        verbatim: dict[str, str] = {}
        take(PATH, text, {}, verbatim)
        assert verbatim == ({} if kept is None else {PATH: kept})

    def test_count_once(self) -> None:
        fields: dict[str, str] = {}
        verbatim: dict[str, str] = {}
        for text in ("N/A", "1", "2"):
            take("serial", text, fields, verbatim)
            take(PATH, text, fields, verbatim)
        assert (fields, verbatim) == ({"serial": "1"}, {PATH: "N/A"})


@pytest.mark.parametrize(
    ("value", "text", "certain"),
    [
        ("1", "<a>1</a>", True),
        ("1", "<a> \n1\t</a>", True),
        ("1 2", "<a>1 2</a>", True),
        ("1", "<a>2</a>", False),
        ("1", "<a>12</a>", False),
        ("1", "<a>1</a><a>1</a>", False),
        ("1", "<a>1", False),
        ("1", "1</a>", False),
        ("1.2", "<a>1x2</a>", False),
        ("<&>", "<a>&lt;&amp;&gt;</a>", True),
        ("\"'", "<a>\"'</a>", True),
        ("<", "<a><</a>", False),
    ],
)
def test_a_value_is_certain_if_it_occurs_once(value: str, text: str, certain: bool) -> None:
    assert is_certain(value, "a", text.encode()) is certain


def test_a_known_value_has_no_blanks_around_it() -> None:
    assert known_value(" 1 2\n") == "1 2"
    assert known_value(" n/a ") is None
