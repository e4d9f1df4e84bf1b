"""Which tokenizer a recipe asks for."""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from mtp_code.config import Strict

# What fill-in-the-middle's prefix, middle and suffix are marked with: ours first, which other
# families use too.
FIM_TOKENS: Final = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")

NUM_BYTES: Final = 256


class BytesConfig(Strict):
    """`fim_tokens` adds three that mark fill-in-the-middle."""

    kind: Literal["bytes"]
    fim_tokens: bool = False

    @property
    def vocab_size(self) -> int:
        return least_vocab_size(self.fim_tokens)


class BpeConfig(Strict):
    """`fim_tokens` adds three that mark fill-in-the-middle; they count towards `vocab_size`."""

    kind: Literal["bpe"]
    vocab_size: int = Field(default=512, ge=257)
    training_bytes: int = Field(default=8_000_000, gt=0)
    fim_tokens: bool = False

    @model_validator(mode="after")
    def _holds_all_bytes(self) -> Self:
        if self.vocab_size < (least := least_vocab_size(self.fim_tokens)):
            raise ValueError(f"vocab_size = {self.vocab_size} is less than {least}")
        return self


class HuggingFaceConfig(Strict):
    """
    Attributes:
        name: a tokenizer.json, a folder that holds one, or a name on the hub.
        end_of_text: by default, what the tokenizer's settings call `eos_token`.
        fim_tokens: what marks prefix, middle and suffix of fill-in-the-middle; by default, looked
            for under the names that are in use.
    """

    kind: Literal["hugging-face"]
    name: str
    end_of_text: str | None = None
    fim_tokens: tuple[str, str, str] | None = None


TokenizerConfig = Annotated[
    BytesConfig | BpeConfig | HuggingFaceConfig, Field(discriminator="kind")
]


def least_vocab_size(fim_tokens: bool) -> int:
    return NUM_BYTES + 1 + len(FIM_TOKENS) * fim_tokens
