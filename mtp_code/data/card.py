"""The data card: what was read, what was left out and why, what is left; JSON, and a page."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from mtp_code.data.config import DataConfig
from mtp_code.data.screening import CONTAINED, COPIED, Counts
from mtp_code.data.shards import Manifest, SourceRecord, SplitRecord

CARD_FILE: Final = "data-card.json"
CARD_PAGE: Final = "data-card.md"

# Tasks that most documents were left out for.
_NAMED_TASKS: Final = 20


def make_card(
    config: DataConfig, manifest: Manifest, counts: Mapping[str, Counts], num_references: int
) -> dict[str, Any]:
    """Counts of documents, bytes and tokens by source, split and reason."""
    return {
        "schema": 1,
        "inputs_sha256": manifest.inputs_sha256,
        "tokenizer": {
            "fingerprint": manifest.tokenizer_fingerprint,
            "vocab_size": manifest.vocab_size,
            **manifest.recipe["tokenizer"],
        },
        "benchmark_tasks_looked_for": num_references,
        "data": config.model_dump(mode="json"),
        "sources": {
            source: _source(record, counts[source]) for source, record in manifest.sources.items()
        },
    }


def page(card: Mapping[str, Any]) -> str:
    """A data card as Markdown."""
    return "\n".join(_lines(card)) + "\n"


def describe(record: SourceRecord) -> str:
    """What a source left, and what not, in a line."""
    parts = [
        f"{split.num_documents} documents of {split.num_bytes} bytes ({split.num_tokens} tokens) "
        f"for {purpose}"
        for split, purpose in ((record.train, "training"), (record.validation, "validation"))
    ]
    # What decontamination found is told even where it found nothing.
    dropped = {COPIED: 0, CONTAINED: 0} | record.dropped
    parts += [f"{count} left out: {reason}" for reason, count in sorted(dropped.items())]
    return ", ".join(parts)


def _source(record: SourceRecord, counts: Counts) -> dict[str, Any]:
    return {
        "read": {"documents": counts.num_documents, "bytes": counts.num_bytes},
        "left_out": {
            reason: {"documents": number, "bytes": counts.dropped_bytes[reason]}
            for reason, number in sorted(counts.dropped.items())
        },
        "benchmark_tasks": dict(Counter(counts.tasks).most_common(_NAMED_TASKS)),
        "train": _split(record.train),
        "validation": _split(record.validation),
    }


def _split(record: SplitRecord) -> dict[str, int]:
    return {
        "documents": record.num_documents,
        "bytes": record.num_bytes,
        "tokens": record.num_tokens,
    }


def _lines(card: Mapping[str, Any]) -> Iterator[str]:
    data, tokenizer = card["data"], card["tokenizer"]
    yield "# Data card"
    yield ""
    yield f"Tokenizer: {tokenizer['kind']}, {tokenizer['vocab_size']:,} ids."
    yield f"Compared with {card['benchmark_tasks_looked_for']:,} benchmark tasks."
    near = data["near_duplicates"]
    yield "Exact duplicates left out" + (
        f", and near ones from a similarity of {near['threshold']:g} ({near['gram_words']}-grams)."
        if near
        else "; near ones were not looked for."
    )
    if fim := data["fim"]:
        yield f"Fill-in-the-middle: {fim['rate']:.0%} of the training documents."
    for name, source in card["sources"].items():
        corpus = data["sources"][name]
        filters = corpus["filters"] or data["filters"]
        read = source["read"]
        yield ""
        yield f"## {name} ({corpus['kind']})"
        yield ""
        yield from _filters(filters)
        yield "| | documents | bytes | tokens |"
        yield "|---|--:|--:|--:|"
        yield f"| read | {read['documents']:,} | {read['bytes']:,} | |"
        for reason, left_out in source["left_out"].items():
            yield f"| left out: {reason} | {left_out['documents']:,} | {left_out['bytes']:,} | |"
        for split in ("train", "validation"):
            kept = source[split]
            yield (f"| {split} | {kept['documents']:,} | {kept['bytes']:,} | {kept['tokens']:,} |")
        if tasks := source["benchmark_tasks"]:
            yield ""
            named = ", ".join(f"{task} ({count})" for task, count in tasks.items())
            yield f"Benchmark tasks found most often: {named}."


def _filters(filters: Mapping[str, Any]) -> Iterator[str]:
    active = [f"{name} = {value}" for name, value in filters.items() if value]
    if active:
        yield f"Filters: {', '.join(active)}."
        yield ""
