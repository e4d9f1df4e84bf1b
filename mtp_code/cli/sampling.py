"""Commands that ask a trained model."""

from pathlib import Path
from typing import Annotated

import typer

import evals.errors
from evals.records import REFERENCE_BITS_FILE, SAMPLES_FILE
from mtp_code.cli.common import named_benchmark
from mtp_code.cli.options import (
    BenchmarkName,
    Device,
    Dtype,
    ModelDir,
    NumThreads,
    PostProcessingName,
    PromptFormatName,
    to_write,
)
from mtp_code.cli.samplers import (
    OPENAI_KEY,
    OPENAI_URL,
    ApiKeyEnv,
    Choice,
    Endpoint,
    Heads,
    MaxConcurrent,
    ModelName,
    RequestsPerMinute,
    Revision,
    SamplerName,
    SamplerOption,
    default_folder,
    described,
    load_once,
    talked_to,
)
from mtp_code.cli.show import progress_bar, table_console

commands = typer.Typer()


@commands.command()
def peek(
    text: Annotated[str, typer.Argument(metavar="TEXT", help='Code, such as "def fib(n):".')],
    run: Annotated[Path, typer.Option(help="A run, or a model's folder.")] = Path("runs/tiny"),
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Show what every head predicts behind each token of a text."""
    from rich.table import Table
    from rich.text import Text

    from mtp_code.decoding.peek import peek as look

    trained = load_once(run, device, dtype)
    positions = look(trained.model, trained.tokenizer, text)
    console = table_console()
    colours = "green stands in the text, red does not, plain is beyond its end"
    table = Table(title=f"{run}: {colours}")
    if not console.is_terminal:
        table = Table(box=None, pad_edge=False, header_style="")
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
    console.print(table)


@commands.command()
def sample(
    model: ModelName,
    benchmark: BenchmarkName,
    out: Annotated[Path | None, typer.Option(help="[default: RUN/eval/BENCHMARK]")] = None,
    num_samples: Annotated[int, typer.Option(min=1, help="Samples a task.")] = 1,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=1e-6, max=1)] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 256,
    seed: int = 0,
    batch_rows: Annotated[
        int | None,
        typer.Option(min=1, help="Samples drawn side by side. [default: 32; vllm: 256]"),
    ] = None,
    num_threads: NumThreads = 1,
    prompt_format: PromptFormatName = None,
    post_processing: PostProcessingName = None,
    sampler: SamplerOption = SamplerName.MTP,
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    heads: Heads = None,
    endpoint: Endpoint = OPENAI_URL,
    api_key_env: ApiKeyEnv = OPENAI_KEY,
    max_concurrent: MaxConcurrent = 8,
    requests_per_minute: RequestsPerMinute = None,
) -> None:
    """Draw samples for a benchmark's tasks.

    Goes on where it was stopped.
    """
    from evals.prompts import with_format
    from evals.sampling import Settings, draw_samples
    from mtp_code.samplers.base import Drawing

    if sampler is not SamplerName.OPENAI:
        import torch

        torch.set_num_threads(num_threads)
    loaded = with_format(named_benchmark(benchmark), prompt_format, post_processing)
    choice = Choice(
        sampler, model, batch_rows, revision, device, dtype, heads,
        endpoint, api_key_env, max_concurrent, requests_per_minute,
    )  # fmt: skip
    chosen = choice.build()
    loaded, chat = talked_to(loaded, chosen)
    settings = Settings(
        num_samples=num_samples,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        seed=seed,
        model=described(chosen),
        versions=chosen.versions,
    )
    path = (out or default_folder(sampler, model) / loaded.name) / SAMPLES_FILE
    drawing = Drawing(max_new_tokens, temperature, top_p)
    with progress_bar(f"{loaded.name} samples") as on_progress:
        draw_samples(
            loaded, lambda asked: chosen.draw(asked, drawing), settings, path, on_progress, chat
        )
    typer.echo(f"{path}: {len(loaded.tasks)} tasks × {num_samples} samples")


@commands.command("reference-bits")
def reference_bits(
    run: ModelDir,
    benchmark: BenchmarkName,
    out: Annotated[
        Path | None, to_write(what="[default: RUN/eval/BENCHMARK/reference-bits.json]")
    ] = None,
    prompt_format: PromptFormatName = None,
    batch_rows: Annotated[int, typer.Option(min=1, help="Solutions read side by side.")] = 8,
    num_threads: NumThreads = 1,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """How many bits a run needs for a benchmark's solutions.

    Its own, each given its prompt. Beside verdicts on the run's samples, score finds them by
    themselves.
    """
    import torch

    from evals.prompts import FORMATS, prompts_read, reference_answer, with_format
    from evals.records import ReferenceBits, write_record
    from mtp_code.decoding.likelihood import Answered, bits_of_answers
    from mtp_code.samplers.ours import OurSampler

    torch.set_num_threads(num_threads)
    loaded = with_format(named_benchmark(benchmark), prompt_format)
    trained = load_once(run, device, dtype)
    sampler = OurSampler(trained, batch_rows)
    loaded, chat = talked_to(loaded, sampler)
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
        model=described(sampler),
        tasks={
            task_id: (round(of_task, 3), len(answer.encode()))
            for (task_id, answer), of_task in zip(answers.items(), bits, strict=True)
        },
    )
    path = out or default_folder(SamplerName.MTP, str(run)) / loaded.name / REFERENCE_BITS_FILE
    write_record(path, record)
    typer.echo(f"{path}: {record.bits_per_byte:.3f} bits per byte of {len(bits)} solutions")
