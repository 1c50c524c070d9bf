"""The bodies of the API's requests, and those answers that are no rows, as types."""

from typing import Annotated

import msgspec
from msgspec import Meta

from collector.marks import MarkKind
from collector.views.columns import MarkRow
from collector.views.terms import MAX_TERMS

__all__ = ["LookupBody", "MarkBody", "MarkRemoved", "MarkSet", "SuggestionsAnswer"]


class MarkBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be noted of a GPU."""

    kind: Annotated[MarkKind, Meta(description="What is to become of the GPU.")]
    note: Annotated[str | None, Meta(description="Why, in one line.")] = None
    ticket: Annotated[str | None, Meta(description="URL or name of a ticket.")] = None
    until: Annotated[str | None, Meta(description="When it ends by itself: a time, or how long from now.")] = None


class MarkSet(msgspec.Struct, frozen=True, kw_only=True):
    """What setting a mark did."""

    mark: MarkRow
    former: Annotated[MarkRow | None, Meta(description="The mark that it ended.")]
    unchanged: Annotated[bool, Meta(description="Whether the GPU was marked so already.")]
    seen: Annotated[bool, Meta(description="Whether such a GPU was ever seen.")]
    warning: Annotated[str | None, Meta(description="What to know of it.")]


class MarkRemoved(msgspec.Struct, frozen=True, kw_only=True):
    """What removing a mark did."""

    mark: MarkRow
    still: Annotated[MarkRow | None, Meta(description="The mark of its serial, which is now in force.")]


class LookupBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ids to look up."""

    ids: Annotated[
        list[str],
        Meta(
            description="Serials, UUIDs or other names, one each; at most 10,000.",
            extra_json_schema={"minItems": 1, "maxItems": MAX_TERMS},
        ),
    ]


class SuggestionRow(msgspec.Struct, frozen=True, kw_only=True):
    """What a text may become."""

    text: str
    kind: str
    detail: str
    url: Annotated[str, Meta(description="Path of its page.")]


class SuggestionsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a text may become, the likeliest first."""

    suggestions: list[SuggestionRow]
