"""The server as its clients meet it: the official client against a real socket."""

import asyncio
import concurrent.futures
import math
import threading

import httpx
import openai
import pytest

from mtp_code.decoding.engine import Engine
from mtp_code.decoding.plain import decode_plain
from mtp_code.decoding.requests import Request, SamplingConfig
from mtp_code.serving.answering import seed_of
from mtp_code.tokenizer import BytesTokenizer, ChatTemplate
from tests.mtp_code.serving.conftest import MODEL, serving, until

PROMPT = "def double(x):\n"
TEMPLATE = ChatTemplate(
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
)


@pytest.fixture(scope="module")
def offline(small_model, tokenizer):
    """The answer by plain decoding, apart from any server."""

    def answer(prompt=PROMPT, max_new_tokens=16, stops=(), seed=0, index=0, **sampling):
        request = Request(
            tokenizer.encode_prompt(prompt),
            max_new_tokens,
            stops,
            seed_of(seed, index),
            SamplingConfig(**sampling),
        )
        (completion,) = decode_plain(small_model, tokenizer, [request])
        return completion

    return answer


def complete(client, prompt=PROMPT, **asked):
    asked = {"temperature": 0, "max_tokens": 16} | asked
    return client.completions.create(model=MODEL, prompt=prompt, **asked)


def refusal(call, status=400):
    with pytest.raises(openai.APIStatusError) as caught:
        call()
    assert caught.value.status_code == status
    assert set(caught.value.body) == {"message", "type", "param", "code"}
    return caught.value


def test_greedy_text_is_that_of_plain_decoding(client, offline, tokenizer):
    answer = complete(client)
    expected = offline()
    assert answer.choices[0].text == tokenizer.decode(expected.tokens)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.prompt_tokens == len(tokenizer.encode_prompt(PROMPT))
    assert answer.usage.completion_tokens == expected.num_committed == 16
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 16


def test_sampled_text_follows_seed_and_index_in_any_company(client, offline, tokenizer):
    asked = {"temperature": 0.8, "top_p": 0.9, "seed": 7}
    crowd = complete(client, n=5, **asked).choices
    assert [choice.index for choice in crowd] == list(range(5))
    for choice in crowd:
        expected = offline(seed=7, index=choice.index, temperature=0.8, top_p=0.9)
        assert choice.text == tokenizer.decode(expected.tokens)
    assert len({choice.text for choice in crowd}) > 1
    assert complete(client, **asked).choices[0].text == crowd[0].text
    top_k = complete(client, temperature=0.8, seed=7, extra_body={"top_k": 3}).choices[0].text
    assert top_k == tokenizer.decode(offline(seed=7, temperature=0.8, top_k=3).tokens)


def test_without_a_seed_answers_differ(client):
    assert len({complete(client, temperature=1, max_tokens=8).choices[0].text for _ in "abcd"}) > 1


def test_equal_prompts_of_a_request_differ_unless_there_is_a_seed(client):
    asked = {"prompt": [PROMPT] * 4, "temperature": 1, "max_tokens": 12}
    assert len({choice.text for choice in complete(client, **asked).choices}) == 4
    assert len({choice.text for choice in complete(client, **asked, seed=1).choices}) == 1


@pytest.mark.parametrize("n", [1, 3])
def test_a_stream_tells_what_a_whole_response_does(client, n):
    asked = {"temperature": 0.9, "seed": 3, "n": n, "logprobs": 2, "max_tokens": 40}
    whole = complete(client, **asked)
    texts, reasons, logprobs = [""] * n, [None] * n, [[] for _ in range(n)]
    chunks = list(complete(client, stream=True, stream_options={"include_usage": True}, **asked))
    for chunk in chunks[:-1]:
        assert chunk.usage is None
        (choice,) = chunk.choices
        texts[choice.index] += choice.text
        reasons[choice.index] = choice.finish_reason or reasons[choice.index]
        if choice.logprobs:
            logprobs[choice.index] += zip(
                choice.logprobs.tokens, choice.logprobs.text_offset, strict=True
            )
    assert len(chunks) > n + 1  # it did come in parts
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    for choice in whole.choices:
        assert texts[choice.index] == choice.text
        assert reasons[choice.index] == choice.finish_reason
        pairs = zip(choice.logprobs.tokens, choice.logprobs.text_offset, strict=True)
        assert logprobs[choice.index] == list(pairs)


def test_a_stop_string_ends_an_answer_before_it(client, offline, tokenizer):
    text = tokenizer.decode(offline(max_new_tokens=60).tokens)
    stop = text[20:23]
    for stops in (stop, [stop, "never to be found"]):
        answer = complete(client, max_tokens=60, stop=stops, logprobs=0).choices[0]
        assert answer.text == text[: text.index(stop)]
        assert answer.finish_reason == "stop"
        assert all(offset < len(answer.text) for offset in answer.logprobs.text_offset)
        parts = list(complete(client, max_tokens=60, stop=stops, stream=True))
        assert "".join(part.choices[0].text for part in parts) == answer.text


def test_logprobs_are_the_models_own(client, small_model, tokenizer):
    answer = complete(client, max_tokens=6, logprobs=3).choices[0]
    tokens = tokenizer.encode_prompt(PROMPT)
    first, own = answer.logprobs.top_logprobs[0], answer.logprobs.token_logprobs[0]
    assert own == max(first.values())
    assert len(first) == 3
    import torch

    with torch.inference_mode():
        law_V = small_model(torch.tensor([tokens]))[0][0, -1].log_softmax(-1)
    expected = law_V.topk(3)
    assert sorted(first.values(), reverse=True) == pytest.approx(expected.values.tolist(), abs=1e-4)
    assert len(answer.logprobs.tokens) == 6


def test_several_prompts_of_text_or_tokens(client, offline, tokenizer):
    texts = ["a = ", "b = "]
    expected = [tokenizer.decode(offline(text).tokens) for text in texts]
    answer = complete(client, prompt=texts)
    assert [choice.text for choice in answer.choices] == expected
    tokens = [tokenizer.encode_prompt(text) for text in texts]
    assert [choice.text for choice in complete(client, prompt=tokens).choices] == expected
    assert complete(client, prompt=tokens[0]).choices[0].text == expected[0]
    assert complete(client, prompt=texts[0], echo=True).choices[0].text == texts[0] + expected[0]


@pytest.fixture(scope="module")
def chatty(small_model):
    talking = BytesTokenizer()
    talking.chat_template = TEMPLATE
    with serving(Engine(small_model, talking, num_rows=2)) as served:
        yield served


def test_chat_goes_through_the_models_template(chatty, small_model):
    client = chatty.client()
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ]
    asked = {
        "model": MODEL,
        "messages": messages,
        "temperature": 0,
        "max_completion_tokens": 12,
        "logprobs": True,
        "top_logprobs": 2,
    }
    answer = client.chat.completions.create(**asked)
    tokenizer = chatty.service.tokenizer
    prompt = tokenizer.encode_chat("<system>Be brief.<user>Hi<assistant>")
    (expected,) = decode_plain(small_model, tokenizer, [Request(prompt, 12)])
    choice = answer.choices[0]
    assert choice.message.content == tokenizer.decode(expected.tokens)
    assert [byte for token in choice.logprobs.content for byte in token.bytes] == expected.tokens
    assert all(len(token.top_logprobs) == 2 for token in choice.logprobs.content)
    assert answer.usage.prompt_tokens == len(prompt)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert said == choice.message.content
    assert chunks[-1].choices[0].finish_reason == choice.finish_reason


def test_a_model_without_a_template_is_not_talked_to(client):
    error = refusal(
        lambda: client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hi"}]
        )
    )
    assert "chat template" in error.message
    assert error.param == "messages"


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"extra_body": {"min_p": 0.1}}, "min_p"),
        ({"extra_body": {"made_up": 1}}, "made_up"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"n": 0}, "n"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"logprobs": 21}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ""}, "stop"),
        ({"stop": ["x"] * 33}, "stop"),
        ({"stop": "x" * 1001}, "stop"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [9999]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [[5], [2**40]], "echo": True}, "prompt"),
        ({"prompt": "x" * 300}, "prompt"),
        ({"max_tokens": 250}, "prompt"),
    ],
)
def test_what_is_not_honoured_is_refused_by_name(client, asked, param):
    error = refusal(lambda: complete(client, **asked))
    assert error.param == param
    assert error.message
    assert "\n" not in error.body["message"]


def test_parameters_that_change_nothing_are_let_pass(client):
    answer = complete(
        client,
        presence_penalty=0,
        logit_bias={},
        best_of=1,
        user="me",
        extra_body={"repetition_penalty": 1.0, "min_p": 0, "tools": None},
    )
    assert answer.choices[0].text == complete(client).choices[0].text


def test_a_context_that_is_too_long_says_what_would_fit(client):
    error = refusal(lambda: complete(client, max_tokens=250))
    assert error.code == "context_length_exceeded"
    assert "at most 240" in error.message


@pytest.mark.parametrize(
    "media_type, body, status, said",
    [
        ("application/json", b'{"model": ', 400, "the body is not JSON"),
        ("application/json", b'{"model": "small"}', 400, "prompt: Field required"),
        ("application/json; charset=utf-8", b"[]", 400, "body: Input should be an object"),
        ("text/plain", b'{"model": "small", "prompt": "x"}', 415, "send application/json"),
        ("application/json", b'{"prompt": "' + b"x" * 9_000_000, 413, "longer than 8388608 bytes"),
    ],
)
def test_bodies_that_are_no_request_are_refused(served, media_type, body, status, said):
    answered = httpx.post(
        f"{served.url}/v1/completions", content=body, headers={"Content-Type": media_type}
    )
    assert answered.status_code == status
    assert said in answered.json()["error"]["message"]


def test_models_and_unknown_paths(served, client):
    (card,) = client.models.list().data
    assert card.id == client.models.retrieve(MODEL).id == MODEL
    assert refusal(lambda: client.models.retrieve("gpt"), 404).code == "model_not_found"
    gone = httpx.get(f"{served.url}/v2/none")
    assert gone.status_code == 404
    assert set(gone.json()["error"]) == {"message", "type", "param", "code"}


def test_sixteen_clients_lose_nothing_and_figures_add_up(small_model, tokenizer):
    prompts = [f"x{index} = " for index in range(32)]
    requests = [Request(tokenizer.encode_prompt(prompt), 8) for prompt in prompts]
    plain = Engine(small_model, tokenizer, num_rows=16, num_drafts=0).generate(requests)
    with serving(Engine(small_model, tokenizer, num_rows=4, num_drafts=2)) as served:

        async def ask_all():
            places = asyncio.Semaphore(16)
            async with served.async_client() as client:

                async def ask(index, prompt):
                    asked = {"model": MODEL, "prompt": prompt, "temperature": 0, "max_tokens": 8}
                    async with places:
                        if index % 2:
                            return (await client.completions.create(**asked)).choices[0].text
                        parts = await client.completions.create(**asked, stream=True)
                        return "".join([part.choices[0].text async for part in parts])

                return await asyncio.gather(*map(ask, range(32), prompts))

        expected = [tokenizer.decode(completion.tokens) for completion in plain.completions]
        assert asyncio.run(ask_all()) == expected
        assert served.metric("request_success_total") == 32
        assert served.metric("generation_tokens_total") == plain.stats.num_tokens
        assert served.metric("prompt_tokens_total") == plain.stats.num_prompt_tokens
        assert served.metric("e2e_request_latency_seconds_count") == 32
        assert served.metric("time_to_first_token_seconds_count") == 32
        accepted = served.metric("spec_decode_num_accepted_tokens_total")
        assert accepted == served.metric("spec_decode_num_accepted_tokens_per_pos_total")
        drafted = served.metric("spec_decode_num_draft_tokens_total")
        assert 0 < served.metric("spec_decode_num_drafts_total") <= drafted
        assert accepted <= drafted
        assert served.metric("num_requests_running") == 0
        assert served.metric("num_requests_waiting") == 0


def test_a_prompt_that_takes_long_to_read_holds_nobody_up(small_model, aside):
    class Slow(BytesTokenizer):
        may_read = threading.Event()

        def encode(self, text):
            assert len(text) < 5000 or self.may_read.wait(30)
            return super().encode(text[:8])

    with serving(Engine(small_model, Slow(), num_rows=2, num_drafts=0)) as served:
        client = served.client()
        answer = aside(lambda: complete(client, prompt="long" * 2000))
        assert complete(client).choices
        assert httpx.get(f"{served.url}/health").status_code == 200
        assert not answer.done()
        Slow.may_read.set()
        assert answer.result().choices


class Held(Engine):
    """An engine whose steps wait, so that what happens between them is in the test's hands."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.may_step = threading.Event()
        self.fault: Exception | None = None

    def step(self):
        assert self.may_step.wait(30)
        if self.fault is not None:
            raise self.fault
        return super().step()


@pytest.fixture
def held(small_model, tokenizer):
    engine = Held(small_model, tokenizer, num_rows=1, num_drafts=0)
    with serving(engine, max_waiting=2, timeout_s=30) as served:
        try:
            yield served, engine
        finally:
            engine.may_step.set()


@pytest.fixture
def aside():
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        yield lambda call: pool.submit(call)


def test_a_full_queue_is_429_with_when_to_come_again(held, aside):
    served, engine = held
    client = served.client()
    answers = [aside(lambda: complete(client)) for _ in range(3)]
    until(lambda: served.service.worker.num_unfinished == 3)
    error = refusal(lambda: complete(client), 429)
    assert int(error.response.headers["retry-after"]) >= 1
    assert error.code == "rate_limit_exceeded"
    assert "takes at once" in refusal(lambda: complete(client, n=4)).message
    engine.may_step.set()
    assert len({answer.result().choices[0].text for answer in answers}) == 1
    complete(client)  # there is room again


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_frees_its_row_and_its_place(held, stream):
    served, engine = held
    body = {"model": MODEL, "prompt": PROMPT, "max_tokens": 200, "stream": stream, "n": 3}
    with httpx.Client() as client:
        request = client.build_request("POST", f"{served.url}/v1/completions", json=body)
        if stream:
            client.send(request, stream=True)  # its headers come before any token
        else:
            request.extensions["timeout"] = {"read": 0.2}
            with pytest.raises(httpx.ReadTimeout):
                client.send(request)
    engine.may_step.set()
    until(lambda: served.service.worker.num_unfinished == 0)
    until(lambda: engine.num_running == 0)
    assert served.metric("request_success_total", finished_reason="abort") == 3
    assert served.metric("generation_tokens_total") == 0
    complete(served.client(), max_tokens=2)


def test_what_takes_too_long_ends(small_model, tokenizer, aside):
    engine = Held(small_model, tokenizer, num_rows=1, num_drafts=0)
    with serving(engine, timeout_s=0.3) as served:
        client = served.client()
        assert refusal(lambda: complete(client), 504).code == "timeout"
        with pytest.raises(openai.APIError, match="not answered in"):
            list(complete(client, stream=True))
        engine.may_step.set()
        until(lambda: engine.num_running == 0)


def test_an_engine_that_fails_fails_its_requests_and_the_health(held, aside, caplog):
    served, engine = held
    client = served.client()
    assert httpx.get(f"{served.url}/health").status_code == 200
    answers = [aside(lambda: complete(client)) for _ in range(2)]
    until(lambda: served.service.worker.num_unfinished == 2)
    engine.fault = RuntimeError("planted")
    engine.may_step.set()
    for answer in answers:
        refusal(answer.result, 500)
    assert httpx.get(f"{served.url}/health").status_code == 503
    refusal(lambda: complete(client), 503)
    assert "planted" in caplog.text


def test_going_it_finishes_what_is_live_and_refuses_what_is_new(held, aside):
    import signal

    served, engine = held
    client = served.client()
    answer = aside(lambda: complete(client))
    until(lambda: served.service.worker.num_unfinished == 1)
    served.server.handle_exit(signal.SIGTERM, None)
    refusal(lambda: complete(client), 503)
    assert httpx.get(f"{served.url}/health").status_code == 503
    engine.may_step.set()
    assert answer.result().usage.completion_tokens == 16
    until(lambda: served.server.should_exit)


def test_what_does_not_finish_in_time_is_told_so(held, aside):
    import signal

    served, _ = held
    answer = aside(lambda: complete(served.client()))
    until(lambda: served.service.worker.num_unfinished == 1)
    served.server.handle_exit(signal.SIGTERM, None)
    served.server.handle_exit(signal.SIGTERM, None)  # once more: at once
    assert "shutting down" in refusal(answer.result, 503).message


def test_a_key_guards_all_but_health(small_model, tokenizer, caplog):
    key = "a-secret-of-the-test"
    with serving(Engine(small_model, tokenizer, num_rows=1), api_key=key) as served:
        refusal(lambda: complete(served.client(api_key="wrong")), 401)
        assert httpx.get(f"{served.url}/metrics").status_code == 401
        assert httpx.get(f"{served.url}/v1/models").status_code == 401
        assert httpx.get(f"{served.url}/health").status_code == 200
        assert httpx.get(f"{served.url}/openapi.json").status_code == 401
        assert complete(served.client(api_key=key)).choices
        assert key not in caplog.text
        assert key not in repr(served.service)


def test_seeds_of_choices_differ_and_fit():
    seeds = {seed_of(seed, index) for seed in (-1, 0, 1, 2**70) for index in range(50)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert math.log2(max(seeds)) > 60
