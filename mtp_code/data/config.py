"""The data section of a recipe."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from mtp_code.config import Strict
from mtp_code.data.corpora import CorpusConfig

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
    """

    sources: dict[SourceName, CorpusConfig] = Field(min_length=1)
    validation_share: float = Field(default=0.02, ge=0, lt=1)
    token_type: TokenType = "uint16"
    packing: Packing = "stream"
