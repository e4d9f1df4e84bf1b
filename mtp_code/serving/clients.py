"""Clients for measurements: the official one, many at once, in a process of their own.

Reads what is to be asked from standard input, a JSON line a round; writes what it took, likewise.
"""

import json
import queue
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai


def ask_all(
    clients: Sequence[openai.OpenAI],
    prompts: Sequence[str],
    model: str,
    max_new_tokens: int,
    is_streamed: bool,
) -> list[str]:
    """The answers, by clients that each ask again as soon as they are answered.

    Raises:
        openai.OpenAIError: one was not answered.
    """
    free: queue.SimpleQueue[openai.OpenAI] = queue.SimpleQueue()
    for client in clients:
        free.put(client)

    def ask(prompt: str) -> str:
        client = free.get()
        try:
            asked = {"model": model, "prompt": prompt, "max_tokens": max_new_tokens}
            answer: Any = client.completions.create(**asked, temperature=0, stream=is_streamed)  # type: ignore[call-overload]
            parts = answer if is_streamed else [answer]
            return "".join(part.choices[0].text for part in parts)
        finally:
            free.put(client)

    with ThreadPoolExecutor(len(clients)) as pool:
        return list(pool.map(ask, prompts))


def main(url: str, num_clients: int) -> None:
    clients = [
        openai.OpenAI(base_url=url, api_key="none", max_retries=0) for _ in range(num_clients)
    ]
    for line in sys.stdin:
        asked = json.loads(line)
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        texts = ask_all(clients, **asked)
        took = {
            "wall_s": time.perf_counter() - wall_s,
            "cpu_s": time.process_time() - cpu_s,
            "texts": texts,
        }
        sys.stdout.write(json.dumps(took) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
