import torch

from mtp_code.decoding.verify import count_accepted


def test_the_longest_agreeing_prefix_is_accepted_and_no_more():
    drafts_Bk = torch.tensor([[1, 2, 3], [1, 9, 3], [9, 2, 3], [1, 2, 9]])
    targets_BT = torch.tensor([[1, 2, 3, 4]] * 4)
    accepted_B = count_accepted(drafts_Bk, targets_BT)
    assert accepted_B.tolist() == [3, 1, 0, 2]


def test_without_drafts_the_verifiers_own_token_is_committed():
    accepted_B = count_accepted(torch.zeros((2, 0), dtype=torch.long), torch.tensor([[5], [6]]))
    assert accepted_B.tolist() == [0, 0]
