"""``python -m sandbox probe`` and ``python -m sandbox run FILE``.

Exit status: 0 if all holds, or the program exited with 0; 1 if not; 2 for a wrong call; 3 where
this machine cannot contain programs; 130 for Ctrl-C.
"""

import argparse
import sys
from pathlib import Path

from sandbox import Ending, Limits, SandboxUnavailable, Tier, probe, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sandbox", description="Run hostile Python.")
    commands = parser.add_subparsers(dest="command", required=True)
    prober = commands.add_parser("probe", help="try each mechanism on this machine")
    runner = commands.add_parser("run", help="run a program")
    runner.add_argument("file", type=Path)
    runner.add_argument(
        "--cpu-s", type=float, default=Limits.cpu_s, help="CPU seconds [default: %(default)g]"
    )
    runner.add_argument(
        "--memory-mb",
        type=int,
        default=Limits.memory_bytes >> 20,
        help="MiB [default: %(default)s]",
    )
    runner.add_argument(
        "--unsafe-no-sandbox", action="store_true", help="run it with all your rights"
    )
    for command in (prober, runner):
        tiers = [tier.value for tier in Tier if tier is not Tier.NONE]
        command.add_argument(
            "--tier", choices=tiers, default=Tier.FULL.value, help="[default: %(default)s]"
        )
    arguments = parser.parse_args()
    tier = Tier(arguments.tier)
    if arguments.command == "probe":
        return _probe(tier)
    try:
        program = arguments.file.read_text(encoding="utf-8")
    except OSError as error:
        return _refused(f"{arguments.file}: {error.strerror}")
    except UnicodeDecodeError as error:
        return _refused(f"{arguments.file}: not UTF-8 text ({error})")
    try:
        limits = Limits(cpu_s=arguments.cpu_s, memory_bytes=arguments.memory_mb << 20)
    except ValueError as error:
        return _refused(str(error))
    try:
        execution = run(program, limits, tier=tier, unsafe_no_sandbox=arguments.unsafe_no_sandbox)
    except SandboxUnavailable as unavailable:
        sys.stderr.write(f"{unavailable}\n")
        return 3
    except KeyboardInterrupt:
        return 130
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    is_terminal = sys.stdout.isatty()
    sys.stdout.write(_harmless(execution.output_tail) if is_terminal else execution.output_tail)
    sys.stdout.flush()
    sys.stderr.write(
        f"{execution.ending.value} | exit code {execution.exit_code} | {execution.cpu_s:.3f} s CPU "
        f"in {execution.wall_s:.3f} s | {execution.peak_memory_bytes >> 20} MB | "
        f"isolation {execution.isolation}\n"
    )
    return 0 if execution.ending is Ending.EXITED and execution.exit_code == 0 else 1


def _harmless(text: str) -> str:
    """What a program wrote, without what makes a terminal do more than show it."""
    shown = (each if each.isprintable() or each in "\n\t" else repr(each)[1:-1] for each in text)
    return "".join(shown)


def _refused(message: str) -> int:
    sys.stderr.write(f"{message}\n")
    return 2


def _probe(tier: Tier) -> int:
    found = probe(tier)
    sys.stdout.write(f"{found}\n")
    return 0 if found.holds else 3


if __name__ == "__main__":
    sys.exit(main())
