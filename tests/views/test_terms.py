"""Reading what people paste to look GPUs up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.model import Place
from collector.views.terms import MAX_TERM_LENGTH, MAX_TERMS, parse_term, parse_terms

UUID = "5c1fe5e8-3b1f-4a9b-9d3e-0d7c2f7f3a11"


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("1652923034028", "1652923034028"),
        ("S/N: 1652923034028", "1652923034028"),
        ("S/N 1652923034028", "1652923034028"),
        ("s/n:1652923034028", "1652923034028"),
        ("SN1652923034028", "1652923034028"),
        ("SN: 1652923034028", "1652923034028"),
        ("S1652923034028", "1652923034028"),
        ("Serial Number : 1652923034028", "1652923034028"),
        ("serial no. 1652923034028", "1652923034028"),
        ("1652 9230 34028", "1652923034028"),
        ("1652\u00a0923\u200b0\u202f34028", "1652923034028"),
        ("\uff11\uff16\uff15\uff12923034028", "1652923034028"),
        ("'1652923034028", "1652923034028"),
        ('"1652923034028"', "1652923034028"),
        ("1652923034028.0", "1652923034028"),
        ("(21)1652923034028", "1652923034028"),
        ("(S)1652923034028", "1652923034028"),
        ("(S) 1652923034028", "1652923034028"),
        ("1S1652923034028", "1652923034028"),
        ('="1652923034028"', "1652923034028"),
        ('serial="1652923034028"', "1652923034028"),
        ("S/N:\n1652923034028", "1652923034028"),
        ("\u202e1652923034028\u202c", "1652923034028"),
        ("/gpus/1652923034028", "1652923034028"),
        ("/api/v1/gpus/1652923034028?at=3d", "1652923034028"),
        ("(1652923034028).", "1652923034028"),
        (UUID, f"GPU-{UUID}"),
        (UUID.upper(), f"GPU-{UUID}"),
        (UUID.replace("-", ""), f"GPU-{UUID}"),
        (f"gpu-{UUID}", f"GPU-{UUID}"),
        (f"MIG-GPU-{UUID}/3/0", f"GPU-{UUID}"),
        (f"MIG-{UUID}", f"GPU-{UUID}"),
        (f"UUID: GPU-{UUID}", f"GPU-{UUID}"),
        (f"GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-{UUID})", f"GPU-{UUID}"),
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3"),
        ("aws:///eu-central-1a/i-0abc", "i-0abc"),
        ("node/gpu-0007", "gpu-0007"),
        ("https://gpuid.example.com/gpus/1652923034028", "1652923034028"),
        ("http://host:8080/a/prefix/gpus/1652923034028?at=3d#life", "1652923034028"),
        ("gpuid.example.com/p/search?q=S/N:%201652923034028", "1652923034028"),
        ("https://h/api/v1/gpus?uuid=GPU-a1", "GPU-a1"),
        ("https://h/api/v1/gpus/1652923034028/history", "1652923034028"),
        ("https://h/chassis/1821324180135", "1821324180135"),
        ("https://h/clusters/sim%2F1", "sim/1"),
    ],
)
def test_one_id_is_read_in_every_form(text: str, reading: str) -> None:
    (term,) = parse_terms(text)
    assert reading in term.readings


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("1,2;3\t4\n5\r\n\n6|7", ["1", "2", "3", "4", "5", "6", "7"]),
        ('"a"\n"b"', ["a", "b"]),
        ("Serial\n165\n166", ["165", "166"]),
        ("165,165", ["165", "165"]),
        ("GPU serial number\t165", ["165"]),
        ("[)>\x1e06\x1d1P900-21001-0000\x1dS1652923034028\x1e\x04", ["1P900-21001-0000", "S1652923034028"]),
        (f"(UUID: GPU-{UUID}) (UUID: MIG-{UUID})", [f"GPU-{UUID}", f"MIG-{UUID}"]),
        ("a b c d e f g h i", list("abcdefghi")),
        (" \n,;\t", []),
    ],
)
def test_many_ids_are_read_with_any_separator(text: str, ids: list[str]) -> None:
    assert [term.text for term in parse_terms(text)] == ids


def test_words_in_one_cell_may_be_one_name_or_several() -> None:
    serial, pair, labelled = parse_terms("1652 9230 34028\n1652923034028 1652923034029\nS/N: 11111111 S/N: 22222222")
    assert (serial.grouped, pair.grouped) == (True, False)
    assert [word.text for word in pair.words] == ["1652923034028", "1652923034029"]
    assert [word.text for word in labelled.words] == ["11111111", "22222222"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("sim-1/gpu-0007", Place("sim-1", "gpu-0007")),
        ("sim-1 / gpu-0007", Place("sim-1", "gpu-0007")),
        ("gpu-0007 (sim-1)", Place("sim-1", "gpu-0007")),
        ("on gpu-0007 (sim-1)", Place("sim-1", "gpu-0007")),
        ("gpu-0007 of sim-1", Place("sim-1", "gpu-0007")),
        ("arn:aws:eks:eu-central-1:1:cluster/p/ip-10", Place("arn:aws:eks:eu-central-1:1:cluster/p", "ip-10")),
        ("https://h/x/clusters/a%2Fb/nodes/gpu-0007?at=3d", Place("a/b", "gpu-0007")),
    ],
)
def test_a_node_is_read_with_its_cluster(text: str, place: Place) -> None:
    (term,) = parse_terms(text)
    assert place in term.places
    assert place.node not in term.readings, "a node of that name in another cluster is another one"


@pytest.mark.parametrize(
    ("text", "bus", "node"),
    [
        ("00000000:4E:00.0", "00000000:4E:00.0", ""),
        ("0000:4e:00.0", "00000000:4E:00.0", ""),
        ("PCI:0000:4e:00", "00000000:4E:00.0", ""),
        ("pci@0000:4e:00.0", "00000000:4E:00.0", ""),
        ("4e:00.0", "4E:00.0", ""),
        ("gpu-0003 0000:4e:00.0", "00000000:4E:00.0", "gpu-0003"),
        ("bus 4e:00.0", "4E:00.0", ""),
        ("12:345", "", ""),
    ],
)
def test_bus_addresses_are_read(text: str, bus: str, node: str) -> None:
    (term,) = parse_terms(text)
    assert (term.bus, term.node) == (bus, node)


@pytest.mark.parametrize(
    "text",
    [
        '"1652923034028"',
        "'1652923034028",
        "1652923034028,",
        "`1652923034028`;",
        '="1652923034028"',
        "\u201e1652923034028\u201c",
        "[)>\x1e06\x1dS1652923034028\x1e\x04",
        "1652923034028\0",
    ],
)
def test_a_single_id_is_read_as_in_a_text(text: str) -> None:
    (term,) = parse_terms(text)
    alone = parse_term(text)
    assert alone.text == term.text
    assert "1652923034028" in alone.readings
    assert not any("\0" in reading for reading in alone.readings)


def test_a_sentence_is_read_as_words() -> None:
    (term,) = parse_terms("Ticket 4711: please replace S/N 1761781876127 in sim-2/gpu-0002")
    words = {word.text: word for word in term.words}
    assert "1761781876127" in words
    assert Place("sim-2", "gpu-0002") in words["sim-2/gpu-0002"].places


def test_the_time_of_an_address_is_kept() -> None:
    assert parse_term("https://h/gpus/165?at=2026-11-01T00:00:00Z").at == "2026-11-01T00:00:00Z"


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("1.65292E+12", "rounded"),
        (f"MIG-{UUID}", "MIG instance"),
        ("https://example.com/cats", "not the page"),
    ],
)
def test_unsearchable_terms_say_why(text: str, note: str) -> None:
    assert note in parse_term(text).note


def test_too_many_or_too_long_terms_are_refused() -> None:
    ids = [str(number) for number in range(MAX_TERMS)]
    assert len(parse_terms("\n".join(ids))) == len(parse_terms(" ".join(ids))) == MAX_TERMS
    for separator in ("\n", " "):
        with pytest.raises(ValueError, match="at most 10,000 ids at once"):
            parse_terms(separator.join([*ids, "x"]))
    with pytest.raises(ValueError, match=r'^id 2 \("1{19}…"\): expected at most 500 characters, got 501$'):
        parse_terms("1\n" + "1" * (MAX_TERM_LENGTH + 1))


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        terms = parse_terms(text)
        parse_term(text)
    except ValueError:
        return
    for term in terms:
        assert term.text.isprintable()
        assert len(term.text) <= MAX_TERM_LENGTH


@given(st.lists(st.from_regex(r"[0-9]{8,14}", fullmatch=True), min_size=2, max_size=50), st.sampled_from("\n,;\t|"))
def test_serials_keep_their_order(serials: list[str], separator: str) -> None:
    assert [term.text for term in parse_terms(separator.join(serials))] == serials
