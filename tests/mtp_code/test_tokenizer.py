import json
import os
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.errors import MachineError
from mtp_code.errors import TokenizerError
from mtp_code.tokenizer import (
    DEFINITION_FILE,
    END_OF_TEXT,
    SETTINGS_FILE,
    BytesTokenizer,
    Tokenizer,
    load_tokenizer,
    open_hugging_face,
    train_bpe,
)
from tests.evals.loaded import loaded

BYTES = BytesTokenizer()


def _train_on_source() -> Tokenizer:
    folder = Path(sysconfig.get_path("stdlib"))
    names = ("argparse", "dataclasses", "functools", "statistics", "textwrap", "typing")
    return train_bpe([(folder / f"{name}.py").read_text("utf-8") for name in names], 600)


BPE = _train_on_source()
both = pytest.mark.parametrize("tokenizer", [BYTES, BPE], ids=["bytes", "bpe"])

unicode_text = st.text(st.characters(exclude_categories=["Cs"]))
code_like = st.text(st.sampled_from(' \n\t\r_aZé0"():=<|>endoftx.,é\u0301\u2028\u00a0'))


@both
@given(text=unicode_text | code_like)
def test_decoding_what_was_encoded_gives_the_text_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@both
@given(text=unicode_text | code_like)
def test_bytes_of_the_tokens_sum_to_the_bytes_of_the_text(tokenizer: Tokenizer, text: str) -> None:
    num_bytes = tokenizer.token_num_bytes()
    assert num_bytes[tokenizer.encode(text)].sum() == len(text.encode())
    assert num_bytes[tokenizer.end_of_text] == 0


@both
@given(before=unicode_text | code_like, after=unicode_text | code_like)
def test_texts_that_meet_at_a_newline_have_the_same_tokens_apart_as_joined(
    tokenizer: Tokenizer, before: str, after: str
) -> None:
    for left, right in ((before + "\n", after), (before, "\n" + after)):
        assert tokenizer.encode(left) + tokenizer.encode(right) == tokenizer.encode(left + right)


@both
@pytest.mark.parametrize("name", ["humaneval", "mbpp", "micro", "micro-hard"])
def test_benchmark_prompts_and_solutions_meet_on_a_token_border(
    tokenizer: Tokenizer, name: str
) -> None:
    if name == "mbpp" and "MTP_CODE_DATA" not in os.environ:
        pytest.skip("MTP_CODE_DATA is not set, and MBPP's data comes from there")
    try:
        tasks = loaded(name).tasks
    except MachineError as error:
        pytest.skip(str(error))
    for task in tasks:
        assert task.reference is not None
        whole = task.prompt + task.reference
        stripped = task.prompt.rstrip("\n")
        for border in {len(task.prompt), len(stripped)}:
            apart = tokenizer.encode(whole[:border]) + tokenizer.encode(whole[border:])
            assert apart == tokenizer.encode(whole), task.task_id


@both
def test_many_texts_at_once_get_the_same_ids(tokenizer: Tokenizer) -> None:
    texts = ["", "def f(x):\n    return x\n", "π = 3\r\n", END_OF_TEXT]
    assert [ids.tolist() for ids in tokenizer.encode_batch(texts)] == [
        tokenizer.encode(text) for text in texts
    ]


@both
def test_end_of_text_cannot_be_written_in_a_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(f"a{END_OF_TEXT}b")
    assert tokenizer.end_of_text not in ids
    assert tokenizer.decode(ids) == f"a{END_OF_TEXT}b"
    assert tokenizer.decode([*tokenizer.encode("a"), tokenizer.end_of_text]) == "a"


@both
def test_lone_surrogates_are_refused_in_one_line(tokenizer: Tokenizer) -> None:
    for encode in (
        lambda: tokenizer.encode("x\ud800"),
        lambda: tokenizer.encode_batch(["x\ud800"]),
    ):
        with pytest.raises(TokenizerError, match=r"character 1 .* lone surrogate '\\ud800'"):
            encode()


@both
def test_broken_utf_8_decodes_to_replacement_characters(tokenizer: Tokenizer) -> None:
    first, second = tokenizer.encode("\u00c3")  # too rare to be merged
    assert tokenizer.decode([first, *tokenizer.encode("a")]) == "\ufffda"
    assert tokenizer.decode([first, second]) == "\u00c3"


@both
def test_saved_and_loaded_it_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert type(loaded) is type(tokenizer)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert (loaded.vocab_size, loaded.end_of_text) == (tokenizer.vocab_size, tokenizer.end_of_text)
    assert loaded.encode("def f(x):\n    pass") == tokenizer.encode("def f(x):\n    pass")


@both
def test_the_tokenizers_library_reads_what_was_saved(tokenizer: Tokenizer, tmp_path: Path) -> None:
    import tokenizers

    tokenizer.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / DEFINITION_FILE))
    text = "def f(x):\n    return 'é'\r\n"
    assert theirs.encode(text).ids == tokenizer.encode(text)
    assert theirs.decode(tokenizer.encode(text)) == text
    assert theirs.token_to_id(END_OF_TEXT) == tokenizer.end_of_text


def test_bytes_are_their_own_ids() -> None:
    assert BYTES.encode("aé\n") == [97, 0xC3, 0xA9, 10]
    assert (BYTES.vocab_size, BYTES.end_of_text) == (257, 256)


def test_training_twice_gives_the_same_tokenizer() -> None:
    assert _train_on_source().fingerprint == BPE.fingerprint


def test_other_texts_give_another_fingerprint() -> None:
    assert len({BYTES.fingerprint, BPE.fingerprint, train_bpe(["ab"] * 9, 300).fingerprint}) == 3


def test_a_trained_vocabulary_is_no_larger_than_asked_for() -> None:
    assert BPE.vocab_size == 600
    assert train_bpe(["ab"], 600).vocab_size == 258  # one pair to merge
    with pytest.raises(ValueError, match="at least 257"):
        train_bpe(["ab"], 256)


def test_what_python_is_full_of_is_one_token() -> None:
    for text in ("):", '"""', " =", "return", "self", "        ", " in", "def", "\n"):
        assert len(BPE.encode(text)) == 1, text


def test_digits_are_spelled_out() -> None:
    assert len(BPE.encode("2026")) == 4


TEMPLATE = (
    "{{ bos_token }} {% for message in messages %}{{ message.role }}:{{ message.content }}"
    "{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


def write_chat_tokenizer(folder: Path, template: object = TEMPLATE) -> None:
    folder.mkdir(exist_ok=True)
    BPE.save(folder)
    settings = json.loads((folder / SETTINGS_FILE).read_text())
    matched = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
    bos = {"__type": "AddedToken", "content": END_OF_TEXT, "special": True} | matched
    settings |= {"bos_token": bos, "add_bos_token": False}
    (folder / SETTINGS_FILE).write_text(json.dumps(settings | {"chat_template": template}))


class TestForeignTokenizer:
    def test_is_read_from_its_folder_with_the_end_of_text_it_names(self, tmp_path: Path) -> None:
        BPE.save(tmp_path)
        for settings in ({"eos_token": "self"}, {"eos_token": {"content": "self"}}):
            (tmp_path / SETTINGS_FILE).write_text(json.dumps(settings))
            tokenizer = open_hugging_face(str(tmp_path))
            assert [tokenizer.end_of_text] == BPE.encode("self")

    def test_prefers_the_end_of_text_that_the_recipe_names(self, tmp_path: Path) -> None:
        BPE.save(tmp_path)
        assert [open_hugging_face(str(tmp_path), "self").end_of_text] == BPE.encode("self")

    def test_without_end_of_text_is_refused(self, tmp_path: Path) -> None:
        BPE.save(tmp_path)
        (tmp_path / SETTINGS_FILE).unlink()
        with pytest.raises(TokenizerError, match=r"set tokenizer\.end_of_text"):
            open_hugging_face(str(tmp_path))
        with pytest.raises(TokenizerError, match="the vocabulary has no '</s>'"):
            open_hugging_face(str(tmp_path), "</s>")

    def test_missing_or_damaged_is_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(TokenizerError, match="no such tokenizer"):
            open_hugging_face(str(tmp_path / "none"))
        (tmp_path / DEFINITION_FILE).write_text('{"version": "1.0"')
        with pytest.raises(TokenizerError, match="not a tokenizer definition") as caught:
            open_hugging_face(str(tmp_path), END_OF_TEXT)
        assert "\n" not in str(caught.value)

    def test_neither_here_nor_on_the_hub_is_one_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        transformers = pytest.importorskip("transformers")

        def unreachable(name: str) -> None:
            raise OSError("cannot reach the hub\nsecond line")

        monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", unreachable)
        with pytest.raises(TokenizerError, match="nobody/nothing: neither") as caught:
            open_hugging_face("nobody/nothing")
        assert "\n" not in str(caught.value)

    def test_its_chat_template_is_read_saved_and_rendered(self, tmp_path: Path) -> None:
        write_chat_tokenizer(tmp_path / "foreign")
        open_hugging_face(str(tmp_path / "foreign")).save(tmp_path)
        tokenizer = load_tokenizer(tmp_path)
        assert tokenizer.chat_template is not None
        asked = tokenizer.chat("Hello <|endoftext|>", "Ans")
        assert asked == f"{END_OF_TEXT} user:Hello <|endoftext|>{END_OF_TEXT}\nassistant:Ans"

    def test_special_tokens_are_read_out_of_chats_only(self, tmp_path: Path) -> None:
        write_chat_tokenizer(tmp_path)
        tokenizer = open_hugging_face(str(tmp_path))
        text = "a<|endoftext|>b"
        chat = tokenizer.encode_chat(text)
        assert chat == [*tokenizer.encode("a"), tokenizer.end_of_text, *tokenizer.encode("b")]
        assert tokenizer.end_of_text not in tokenizer.encode(text)
        with pytest.raises(TokenizerError, match="lone surrogate"):
            tokenizer.encode_chat("\ud800")

    def test_its_chat_template_may_lie_beside_or_be_one_of_several(self, tmp_path: Path) -> None:
        several = [{"name": "tools", "template": "T"}, {"name": "default", "template": "D"}]
        write_chat_tokenizer(tmp_path, several)
        assert open_hugging_face(str(tmp_path)).chat("x", "") == "D"
        (tmp_path / "chat_template.jinja").write_text("F")
        assert open_hugging_face(str(tmp_path)).chat("x", "") == "F"

    def test_a_chat_is_what_transformers_makes_of_it(self, tmp_path: Path) -> None:
        transformers = pytest.importorskip("transformers")
        write_chat_tokenizer(tmp_path)
        theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
        messages = [{"role": "user", "content": "Hello"}]
        asked = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ours = open_hugging_face(str(tmp_path))
        assert ours.chat("Hello", "") == asked
        assert ours.encode_chat(asked) == theirs(asked, add_special_tokens=False).input_ids

    def test_without_a_template_or_with_a_broken_one_is_one_line(self, tmp_path: Path) -> None:
        assert BPE.chat_template is None
        with pytest.raises(TokenizerError, match="no chat template"):
            BPE.chat("x", "")
        for broken in ("{% for %}", "{{ raise_exception('roles\\nmust alternate') }}"):
            write_chat_tokenizer(tmp_path, broken)
            with pytest.raises(TokenizerError, match="its chat template fails: ") as caught:
                open_hugging_face(str(tmp_path)).chat("x", "")
            assert "\n" not in str(caught.value)

    def test_bytes_of_tokens_are_known_without_byte_level_spelling(self) -> None:
        model = {
            "type": "BPE",
            "vocab": {"<unk>": 0, "</s>": 1, "<0x0A>": 2, "▁a": 3, "é": 4},
            "merges": [],
        }
        special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        definition = {
            "version": "1.0",
            "added_tokens": [{"id": 1, "content": "</s>", "special": True} | special],
            "model": model,
        }
        tokenizer = Tokenizer(json.dumps(definition), "</s>")
        assert tokenizer.token_num_bytes().tolist() == [5, 0, 1, 2, 2]


class TestFillInTheMiddle:
    def test_our_tokenizers_add_its_tokens_where_asked(self, tmp_path: Path) -> None:
        trained = train_bpe(["ab ab"], 300, fim_tokens=True)
        for tokenizer in (BytesTokenizer(fim_tokens=True), trained):
            assert tokenizer.fim is not None
            assert len({tokenizer.end_of_text, *tokenizer.fim}) == 4
            assert tokenizer.token_num_bytes()[list(tokenizer.fim)].tolist() == [0, 0, 0]
            tokenizer.save(tmp_path)
            loaded = load_tokenizer(tmp_path)
            assert (type(loaded), loaded.fim) == (type(tokenizer), tokenizer.fim)
        assert BYTES.fim is BPE.fim is None
        assert BytesTokenizer(fim_tokens=True).vocab_size == 260

    def test_foreign_ones_are_found_by_name_or_as_the_recipe_says(self, tmp_path: Path) -> None:
        train_bpe(["ab ab"], 300, fim_tokens=True).save(tmp_path)
        path = tmp_path / DEFINITION_FILE
        path.write_text(path.read_text().replace("<|fim_", "<fim_").replace("fix|>", "fix>"))
        path.write_text(path.read_text().replace("middle|>", "middle>"))
        found = open_hugging_face(str(tmp_path)).fim
        assert found is not None
        named = ("<fim_suffix>", "<fim_middle>", "<fim_prefix>")
        tokenizer = open_hugging_face(str(tmp_path), fim_tokens=named)
        assert tokenizer.fim == tuple(reversed(found))
        tokenizer.save(tmp_path)
        assert load_tokenizer(tmp_path).fim == tokenizer.fim
        with pytest.raises(TokenizerError, match="the vocabulary has no '<none>'"):
            open_hugging_face(str(tmp_path), fim_tokens=("<none>", *named[1:]))
