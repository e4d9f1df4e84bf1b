import json
import shutil
from pathlib import Path

import pytest
import torch

from mtp_code.errors import InputError, InteropError, TokenizerError
from mtp_code.interop.hugging_face import import_model
from mtp_code.loading import load_model
from mtp_code.run_folder import load_run
from mtp_code.tokenizer import PROBES
from tests.reference import published_logits

sentencepiece = pytest.importorskip("sentencepiece", reason="the extra interop is not installed")

VOCABULARY = 340
PARAMS = {"dim": 16, "n_layers": 5, "n_heads": 2, "multiple_of": 4, "norm_eps": 1e-5}


@pytest.fixture(scope="module")
def tokenizer_model(tmp_path_factory) -> Path:
    """A SentencePiece model with the settings of Llama's."""
    path = tmp_path_factory.mktemp("sentencepiece") / "tokenizer"
    lines = ["def f(x):", "    return x", "hello world 12345 it's", "a + b", "class Foo:"] * 40
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(path),
        vocab_size=VOCABULARY,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
    )
    return path.with_suffix(".model")


def synthetic_weights(
    num_extra: int = 2, vocabulary: int = VOCABULARY, **params: int
) -> dict[str, torch.Tensor]:
    shape = PARAMS | params
    generator = torch.Generator().manual_seed(7)

    def random(*size: int) -> torch.Tensor:
        return 0.4 * torch.randn(size, generator=generator)

    dim, ffn = shape["dim"], 24
    keys = dim * shape.get("n_kv_heads", shape["n_heads"]) // shape["n_heads"]
    layers = [f"layers.{number}" for number in range(shape["n_layers"] - num_extra)]
    layers += [f"extra_heads.{number}" for number in range(num_extra)]
    weights = {
        "tok_embeddings.weight": random(vocabulary, dim),
        "norm.weight": 1 + random(dim),
        "output.weight": random(vocabulary, dim),
        "rope.freqs": random(4),
    }
    for layer in layers:
        weights |= {
            f"{layer}.attention_norm.weight": 1 + random(dim),
            f"{layer}.attention.wq.weight": random(dim, dim),
            f"{layer}.attention.wk.weight": random(keys, dim),
            f"{layer}.attention.wv.weight": random(keys, dim),
            f"{layer}.attention.wo.weight": random(dim, dim),
            f"{layer}.ffn_norm.weight": 1 + random(dim),
            f"{layer}.feed_forward.w1.weight": random(ffn, dim),
            f"{layer}.feed_forward.w2.weight": random(dim, ffn),
            f"{layer}.feed_forward.w3.weight": random(ffn, dim),
        }
    return weights


def write_published(
    folder: Path, tokenizer_model: Path, weights: dict[str, torch.Tensor], **params: object
) -> str:
    """As they lie on the hub: a folder each, and the tokenizer of all beside them."""
    folder.mkdir(parents=True)
    torch.save(weights, folder / "consolidated.pth")
    (folder / "params.json").write_text(json.dumps(PARAMS | params))
    shutil.copy(tokenizer_model, folder.parent / "tokenizer.model")
    return str(folder)


@pytest.mark.parametrize(
    "num_extra, params",
    [
        (2, {"n_future_tokens": 3}),
        (0, {"n_layers": 3}),
        (3, {"n_kv_heads": 1, "rope_theta": 500.0}),
    ],
)
def test_logits_of_all_heads_are_those_of_the_plain_description(
    tmp_path, tokenizer_model, num_extra, params
):
    weights = synthetic_weights(num_extra, **params)
    source = write_published(tmp_path / "hub" / "7B_1T_4", tokenizer_model, weights, **params)
    import_model(source, tmp_path / "run", allow_pickle=True)
    model = load_run(tmp_path / "run").model
    tokens = [1, 300, 5, 300, 17, 299, 42]
    logits_KTV = model(torch.tensor([tokens]))[:, 0]
    expected = published_logits(weights, PARAMS | params, tokens)
    assert len(logits_KTV) == len(expected) == num_extra + 1
    for offset, of_offset in enumerate(expected):
        for position, logits_V in enumerate(of_offset):
            torch.testing.assert_close(
                logits_KTV[offset, position].double(), logits_V, atol=1e-5, rtol=1e-5
            )


def test_the_reference_would_notice_a_head_that_reads_head_1(tmp_path, tokenizer_model):
    """The mistake of a public port: later heads on top of head 1."""
    weights = synthetic_weights()
    expected = published_logits(weights, PARAMS, [1, 5])
    source = write_published(tmp_path / "hub" / "7B_1T_4", tokenizer_model, weights)
    import_model(source, tmp_path / "run", allow_pickle=True)
    model = load_run(tmp_path / "run").model
    tokens_BT = torch.tensor([[1, 5]])
    reading = model.read(tokens_BT, model.trunk.attend(tokens_BT))
    wrong = model.mtp_heads(2, reading.states(1), reading.attending)
    assert (model.unembed(2, wrong)[0, 1].double() - expected[1][1]).abs().max() > 0.1


def test_precision_is_that_of_the_file(tmp_path, tokenizer_model):
    weights = {name: tensor.bfloat16() for name, tensor in synthetic_weights().items()}
    source = write_published(tmp_path / "hub" / "7B_1T_4", tokenizer_model, weights)
    import_model(source, tmp_path / "run", allow_pickle=True)
    (path,) = (tmp_path / "run").rglob("model.safetensors")
    from safetensors.torch import load_file

    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.bfloat16}


def test_text_is_read_as_sentencepiece_reads_it(tmp_path, tokenizer_model):
    original = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer_model))
    source = write_published(tmp_path / "hub" / "7B_1T_4", tokenizer_model, synthetic_weights())
    import_model(source, tmp_path / "run", allow_pickle=True)
    tokenizer = load_run(tmp_path / "run").tokenizer
    assert tokenizer.end_of_text == original.eos_id()
    for text in (*PROBES, "", "x", "  x", "\n    return", "</s> is text", "def f(x):\n"):
        assert tokenizer.encode_prompt(text) == [original.bos_id(), *original.encode(text)]
        assert tokenizer.decode(tokenizer.encode_prompt(text)) == text


def test_an_answer_keeps_its_indentation(tmp_path, tokenizer_model):
    """Where a tokenizer puts a space before a text, and takes it off again."""
    source = write_published(tmp_path / "hub" / "7B_1T_4", tokenizer_model, synthetic_weights())
    import_model(source, tmp_path / "run", allow_pickle=True)
    tokenizer = load_run(tmp_path / "run").tokenizer
    prompt, answer = "def f(x):\n", "    return x\n"
    tokens, answered = tokenizer.encode_prompt(prompt), tokenizer.encode_after(answer)
    assert tokenizer.decode(answered) != answer
    assert tokenizer.decode_after(tokens, answered) == answer
    assert tokenizer.decode([*tokens, *answered]) == prompt + answer


def without(name: str) -> dict[str, torch.Tensor]:
    weights = synthetic_weights()
    del weights[name]
    return weights


@pytest.mark.parametrize(
    "weights, params, match",
    [
        (without("extra_heads.1.attention.wq.weight"), {}, "lacks extra_heads.1.attention.wq"),
        (without("norm.weight"), {}, "lacks norm.weight"),
        (without("tok_embeddings.weight"), {}, "lacks tok_embeddings.weight"),
        (synthetic_weights() | {"layers.3.x": torch.ones(1)}, {}, "holds layers.3.x"),
        (synthetic_weights(), {"n_future_tokens": 4}, "n_future_tokens = 4.*2 extra_heads"),
        (synthetic_weights(), {"n_layers": 6}, "lacks layers.3.attention"),
        (synthetic_weights(), {"n_heads": 0}, "num_attn_heads"),
        (synthetic_weights(), {"dim": 32}, r"is \(340, 16\), its configuration says"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, tokenizer_model, weights, params, match):
    source = write_published(tmp_path / "hub" / "7B_1T_4", tokenizer_model, weights, **params)
    with pytest.raises(InputError, match=match) as caught:
        import_model(source, tmp_path / "run", allow_pickle=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_pickles_need_to_be_allowed(tmp_path, tokenizer_model):
    source = write_published(tmp_path / "hub" / "7B_1T_4", tokenizer_model, synthetic_weights())
    with pytest.raises(InteropError, match="--allow-pickle"):
        import_model(source, tmp_path / "run")


def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path, tokenizer_model):
    weights = synthetic_weights(vocabulary=VOCABULARY + 1)
    source = write_published(tmp_path / "hub" / "7B_1T_4", tokenizer_model, weights)
    with pytest.raises(TokenizerError, match="340 tokens, the model a vocabulary of 341"):
        import_model(source, tmp_path / "run", allow_pickle=True)


def test_a_tokenizer_in_the_checkpoint_s_folder_is_its_own(tmp_path, tokenizer_model):
    source = write_published(tmp_path / "hub" / "7B_1T_4", tokenizer_model, synthetic_weights())
    (tmp_path / "hub" / "tokenizer.model").rename(Path(source) / "tokenizer.model")
    (tmp_path / "hub" / "tokenizer.model").write_text("of another model")
    import_model(source, tmp_path / "run", allow_pickle=True)
    assert load_run(tmp_path / "run").tokenizer.vocab_size == VOCABULARY


def test_nothing_else_beside_the_tokenizer_is_read(tmp_path, tokenizer_model):
    source = write_published(tmp_path / "hub" / "7B_1T_4", tokenizer_model, synthetic_weights())
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / "hub" / name).write_text("of another model")
    import_model(source, tmp_path / "run", allow_pickle=True)


def test_a_checkpoint_without_a_tokenizer_is_refused(tmp_path, tokenizer_model, monkeypatch):
    source = write_published(tmp_path / "hub" / "7B_1T_4", tokenizer_model, synthetic_weights())
    (tmp_path / "hub" / "tokenizer.model").unlink()
    monkeypatch.chdir(source)  # "." has a parent too
    with pytest.raises(TokenizerError, match=r"^\.: has no tokenizer.model, nor has .*hub$"):
        import_model(".", tmp_path / "run", allow_pickle=True)


def test_a_folder_of_checkpoints_lists_them(tmp_path, tokenizer_model):
    for name in ("7B_200B_1", "7B_1T_4"):
        write_published(tmp_path / "hub" / name, tokenizer_model, synthetic_weights())
    root = str(tmp_path / "hub")
    listed = rf"^{root}: no model itself.*: 7B_1T_4, 7B_200B_1; give one, such as {root}/7B_1T_4$"
    with pytest.raises(InteropError, match=listed):
        import_model(root, tmp_path / "run", allow_pickle=True)
    with pytest.raises(InteropError, match=listed):
        load_model(tmp_path / "hub")
    assert not (tmp_path / "run").exists()


def test_the_end_of_text_is_the_tokenizer_s_own(tmp_path, tokenizer_model):
    source = write_published(tmp_path / "hub" / "7B_1T_4", tokenizer_model, synthetic_weights())
    with pytest.raises(InteropError, match="leave --end-of-text out"):
        import_model(source, tmp_path / "run", allow_pickle=True, ends=["x"])
    assert not (tmp_path / "run").exists()
