"""The data section of a recipe."""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from mtp_code.config import Strict
from mtp_code.data.corpora import CorpusConfig
from mtp_code.data.duplicates import NearDuplicates
from mtp_code.data.filters import FilterConfig
from mtp_code.data.fim import FimConfig

SourceName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
TokenType = Literal["uint16", "uint32"]
Packing = Literal["stream", "whole"]


class DataConfig(Strict):
    """
    Attributes:
        sources: corpora by name; the name is also that of their files.
        validation_share: share of each source's documents that training never sees.
        token_type: what a token is stored as; uint16 holds vocabularies up to 65,536.
        packing: `stream` cuts rows out of the documents laid end to end; `whole` splits only
            documents that are longer than a row, and pads.
        filters: what documents must be like, in sources that have no filters of their own.
        near_duplicates: leave out documents nearly like earlier ones; exact duplicates are always
            left out.
        fim: cut some of the training documents for fill-in-the-middle.
    """

    sources: dict[SourceName, CorpusConfig] = Field(min_length=1)
    validation_share: float = Field(default=0.02, ge=0, lt=1)
    token_type: TokenType = "uint16"
    packing: Packing = "stream"
    filters: FilterConfig = FilterConfig()
    near_duplicates: NearDuplicates | None = None
    fim: FimConfig | None = None

    @model_validator(mode="after")
    def _knows_how_often_to_read_each_source(self) -> Self:
        with_epochs = [name for name, corpus in self.sources.items() if corpus.epochs is not None]
        if with_epochs and len(with_epochs) < len(self.sources):
            other = next(name for name in self.sources if name not in with_epochs)
            raise ValueError(
                f"sources.{with_epochs[0]} says epochs and sources.{other} does not; say them for "
                "all sources, or weights"
            )
        return self

    @model_validator(mode="after")
    def _knows_licences_where_it_filters_them(self) -> Self:
        for name, corpus in self.sources.items():
            filters = self.filters if corpus.filters is None else corpus.filters
            if filters.licences is not None and not corpus.knows_licences:
                raise ValueError(
                    f"sources.{name}: filters.licences needs the licence_field of its records; "
                    "set it, or give the source filters of its own"
                )
        return self
