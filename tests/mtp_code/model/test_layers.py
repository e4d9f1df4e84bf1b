import cmath

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from mtp_code.model import layers
from mtp_code.model.config import ModelConfig
from mtp_code.model.layers import RMSNorm, Rotary, normed, rotate


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 1e6])
@pytest.mark.parametrize("shape", [(1, 1, 128), (3, 7, 5, 6)])
def test_a_norm_of_few_calls_is_torch_s_to_rounding(shape, scale):
    x = scale * torch.randn(shape, generator=torch.Generator().manual_seed(1))
    expected = F.rms_norm(x, x.shape[-1:], eps=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(normed(x, 1e-5), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_in_other_precisions_the_norm_is_torch_s(dtype):
    x = torch.randn(2, 3, 64).to(dtype)
    with torch.no_grad():
        assert torch.equal(normed(x, 1e-5), F.rms_norm(x, (64,), eps=1e-5))


def test_what_is_trained_goes_through_torch_s_norm():
    ours, theirs = RMSNorm(64, eps=1e-5), nn.RMSNorm(64, eps=1e-5)
    x = torch.randn(2, 3, 64)
    ours.weight.data.uniform_()
    theirs.load_state_dict(ours.state_dict())
    found, expected = ours(x), theirs(x)
    assert torch.equal(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    assert torch.equal(ours.weight.grad, theirs.weight.grad)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), expected, rtol=1e-6, atol=1e-6)


def test_pretended_tensors_leave_nothing_behind():
    layers._constant.cache_clear()
    with FakeTensorMode(), torch.no_grad():
        normed(torch.randn(2, 8), 1e-5)
    with torch.no_grad():
        assert normed(torch.ones(2, 8), 1e-5)[0, 0].item() == pytest.approx(1.0, abs=1e-4)


def test_rotation_turns_each_pair_by_its_position():
    config = ModelConfig(
        vocab_size=9, width=16, num_layers=2, num_attn_heads=2, ffn_width=8, context=32
    )
    positions_BT = torch.tensor([[0, 5, 30]])
    x_BTHd = torch.randn(1, 3, 2, 8, generator=torch.Generator().manual_seed(2))
    found_BTHd = rotate(x_BTHd, *Rotary(config)(positions_BT))
    for token, position in enumerate(positions_BT[0].tolist()):
        for head in range(2):
            for pair in range(4):
                x_d, found_d = x_BTHd[0, token, head], found_BTHd[0, token, head]
                turned = complex(x_d[pair], x_d[pair + 4])
                turned *= cmath.exp(1j * position * config.rope_theta ** (-pair / 4))
                assert complex(found_d[pair], found_d[pair + 4]) == pytest.approx(turned, abs=1e-5)
