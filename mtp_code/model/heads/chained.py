"""Heads one on top of the other, in order of offset or against it."""

from mtp_code.model.heads.base import LayerHeads


class CausalHeads(LayerHeads):
    """The head of offset k reads the states of offset k − 1.

    Source: Gloeckle et al. 2024, arXiv 2404.19737, appendix on alternative architectures.
    """

    def reads(self, offset: int) -> int:
        return offset - 1


class AnticausalHeads(LayerHeads):
    """The most distant token first, the next one last: offset k reads the states of k + 1.

    The next token passes every head, so decoding runs all of them and drafts at no more cost.

    Source: Gloeckle et al. 2024, arXiv 2404.19737, appendix on alternative architectures.
    """

    def reads(self, offset: int) -> int:
        return 0 if offset == self.num_offsets else offset + 1
