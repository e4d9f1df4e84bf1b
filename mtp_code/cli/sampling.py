"""Commands that ask a trained model."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import evals.errors
from evals.records import REFERENCE_BITS_FILE, SAMPLES_FILE
from mtp_code.cli.common import named_benchmark
from mtp_code.cli.options import BenchmarkName, PostProcessingName, PromptFormatName, RunDir
from mtp_code.cli.show import progress_bar, warn

if TYPE_CHECKING:
    from evals.benchmarks import Benchmark
    from evals.prompts import Chat
    from evals.sampling import Sampler, Settings
    from mtp_code.run_folder import TrainedModel

commands = typer.Typer()


@commands.command()
def peek(
    text: Annotated[str, typer.Argument(help='Code, such as "def fib(n):".')],
    run: Annotated[Path, typer.Option(help="A run folder.")] = Path("runs/tiny"),
) -> None:
    """Show what every head predicts behind each token of a text."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from mtp_code.decoding.peek import peek as look
    from mtp_code.run_folder import load_run

    trained = load_run(run)
    positions = look(trained.model, trained.tokenizer, text)
    table = Table(title=f"{run}: green stands in the text, red does not, plain is beyond its end")
    table.add_column("after")
    for offset in range(1, trained.model.num_mtp_heads + 1):
        table.add_column(f"offset {offset}")
    styles = {True: "green", False: "red", None: ""}
    for position in positions:
        cells = [
            Text(f"{guess.text!r} {guess.prob:.0%}", style=styles[guess.is_right])
            for guess in position.guesses
        ]
        table.add_row(Text(repr(position.text)), *cells)
    Console().print(table)


@commands.command()
def sample(
    run: RunDir,
    benchmark: BenchmarkName,
    out: Annotated[Path | None, typer.Option(help="[default: RUN/eval/BENCHMARK]")] = None,
    num_samples: Annotated[int, typer.Option(min=1, help="Samples a task.")] = 1,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=1e-6, max=1)] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 256,
    seed: int = 0,
    batch_rows: Annotated[int, typer.Option(min=1, help="Samples drawn side by side.")] = 32,
    num_threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    prompt_format: PromptFormatName = None,
    post_processing: PostProcessingName = None,
) -> None:
    """Draw samples for a benchmark's tasks; goes on where it was stopped."""
    import torch

    from evals.prompts import with_format
    from evals.sampling import Settings, draw_samples
    from mtp_code.machine import describe_versions
    from mtp_code.run_folder import load_run

    torch.set_num_threads(num_threads)
    loaded = with_format(named_benchmark(benchmark), prompt_format, post_processing)
    trained = load_run(run)
    loaded, chat = _talked_to(loaded, trained)
    settings = Settings(
        num_samples=num_samples,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        seed=seed,
        model=trained.description,
        versions=describe_versions(),
    )
    path = (out or run / "eval" / loaded.name) / SAMPLES_FILE
    with progress_bar(f"{loaded.name} samples") as on_progress:
        sampler = _sampler(trained, settings, batch_rows)
        draw_samples(loaded, sampler, settings, path, on_progress, chat)
    typer.echo(f"{path}: {len(loaded.tasks)} tasks × {num_samples} samples")


@commands.command("reference-bits")
def reference_bits(
    run: RunDir,
    benchmark: BenchmarkName,
    out: Annotated[
        Path | None, typer.Option(help="[default: RUN/eval/BENCHMARK/reference-bits.json]")
    ] = None,
    prompt_format: PromptFormatName = None,
    batch_rows: Annotated[int, typer.Option(min=1, help="Solutions read side by side.")] = 8,
    num_threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """How many bits a run needs for a benchmark's own solutions, each given its prompt.

    Beside verdicts on the run's samples, score finds them by themselves.
    """
    import torch

    from evals.prompts import FORMATS, prompts_read, reference_answer, with_format
    from evals.records import ReferenceBits, write_record
    from mtp_code.decoding.likelihood import Answered, bits_of_answers
    from mtp_code.run_folder import load_run

    torch.set_num_threads(num_threads)
    loaded = with_format(named_benchmark(benchmark), prompt_format)
    trained = load_run(run)
    loaded, chat = _talked_to(loaded, trained)
    is_chat = FORMATS[loaded.prompt_format].is_chat
    encode = trained.tokenizer.encode_chat if is_chat else trained.tokenizer.encode_prompt
    prompts = prompts_read(loaded, chat)
    answers = {
        task.task_id: answer
        for task in loaded.tasks
        if (answer := reference_answer(task, loaded.prompt_format))
    }
    if not answers:
        raise evals.errors.InputError(f"{loaded.name}: none of its tasks comes with a solution")
    asked = [Answered(encode(prompts[task_id]), answer) for task_id, answer in answers.items()]
    with progress_bar(f"{loaded.name} reference bits") as on_progress:
        bits = bits_of_answers(trained.model, trained.tokenizer, asked, batch_rows, on_progress)
    record = ReferenceBits(
        benchmark=loaded.name,
        data_sha256=loaded.data_sha256,
        prompt_format=loaded.prompt_format,
        model=trained.description,
        tasks={
            task_id: (round(of_task, 3), len(answer.encode()))
            for (task_id, answer), of_task in zip(answers.items(), bits, strict=True)
        },
    )
    path = out or run / "eval" / loaded.name / REFERENCE_BITS_FILE
    write_record(path, record)
    typer.echo(f"{path}: {record.bits_per_byte:.3f} bits per byte of {len(bits)} solutions")


def _talked_to(benchmark: "Benchmark", trained: "TrainedModel") -> "tuple[Benchmark, Chat | None]":
    """The benchmark as the model can be asked, and the model's chat template where it has one.

    Without one, a chat's message is put plainly: another format, which goes by its own name.
    """
    from evals.prompts import CHAT, CHAT_PLAIN, with_format

    if trained.tokenizer.chat_template is not None:
        return benchmark, trained.tokenizer.chat
    if benchmark.prompt_format == CHAT.name:
        warn(f"the model has no chat template; the prompt format is {CHAT_PLAIN.name} instead")
        benchmark = with_format(benchmark, CHAT_PLAIN.name, benchmark.post_processing)
    return benchmark, None


def _sampler(trained: "TrainedModel", settings: "Settings", batch_rows: int) -> "Sampler":
    """Draws with the model, its heads helping."""
    from evals.sampling import Request as Asked
    from mtp_code.decoding.engine import Engine
    from mtp_code.decoding.requests import Request
    from mtp_code.decoding.sampling import SamplingConfig

    model, tokenizer = trained.model, trained.tokenizer
    sampling = SamplingConfig(temperature=settings.temperature, top_p=settings.top_p)

    def draw(asked: Iterable[Asked]) -> Iterator[tuple[Asked, str]]:
        asked_by_request: dict[int, Asked] = {}
        requests = []
        for one in asked:
            encode = tokenizer.encode_chat if one.is_chat else tokenizer.encode_prompt
            prompt = encode(one.prompt)
            if len(prompt) >= model.config.context:
                warn(
                    f"{one.task_id}: prompt of {len(prompt)} tokens leaves no room in the context "
                    f"of {model.config.context}; its completion is empty"
                )
                yield one, ""
                continue
            requests.append(Request(prompt, settings.max_new_tokens, one.stops, one.seed, sampling))
            asked_by_request[id(requests[-1])] = one
        for completion in Engine(model, tokenizer, batch_rows).complete(requests):
            one = asked_by_request[id(completion.request)]
            yield one, tokenizer.decode_after(completion.request.prompt, completion.tokens)

    return draw
