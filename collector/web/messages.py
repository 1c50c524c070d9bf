"""Types of the API's request bodies and of its responses that are not rows."""

from typing import Annotated

import msgspec
from msgspec import Meta

from collector.marks import MarkKind
from collector.views.columns import MarkRow
from collector.views.terms import MAX_TERMS

__all__ = ["LookupBody", "MarkBody", "MarkRemoved", "MarkSet", "SuggestionsAnswer"]


class MarkBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mark to set on a GPU."""

    kind: Annotated[MarkKind, Meta(description="Kind of mark.")]
    note: Annotated[str | None, Meta(description="Reason, in one line.")] = None
    ticket: Annotated[str | None, Meta(description="URL or name of a ticket.")] = None
    until: Annotated[str | None, Meta(description="Expiry: a time, or how long from now.")] = None


class MarkSet(msgspec.Struct, frozen=True, kw_only=True):
    """The result of setting a mark."""

    mark: MarkRow
    former: Annotated[MarkRow | None, Meta(description="The mark that it replaced.")]
    unchanged: Annotated[bool, Meta(description="Whether the GPU already had this mark.")]
    seen: Annotated[bool, Meta(description="Whether such a GPU was ever seen.")]
    warning: Annotated[str | None, Meta(description="A note about it.")]


class MarkRemoved(msgspec.Struct, frozen=True, kw_only=True):
    """The result of removing a mark."""

    mark: MarkRow
    still: Annotated[MarkRow | None, Meta(description="The mark of its serial, which now applies.")]


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
    """A suggested completion of a text."""

    text: str
    kind: str
    detail: str
    url: Annotated[str, Meta(description="Path of its page.")]


class SuggestionsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Suggested completions of a text, the likeliest first."""

    suggestions: list[SuggestionRow]
