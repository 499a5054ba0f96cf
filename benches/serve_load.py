#!/usr/bin/env python3
"""Load on `muni-engine serve`: start, time to first token, tokens/s for several numbers of chats at the same time, and mixed
traffic with clients that misbehave. Only Python's standard library.

    python3 benches/serve_load.py --engine target/release/muni-engine --model-path runs/NAME/best_model

Prints tables in Markdown. Exits with 1 if a healthy request was not answered or the server died."""

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time

# About 40 tokens with the prompt's frame.
QUESTION = "Wo kann ich meinen neuen Wohnsitz anmelden, und was muss ich mitbringen?"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", required=True, help="the built binary")
    parser.add_argument("--model-path", required=True)
    parser.add_argument("--knowledge", default="knowledge")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--levels", default="1,8,64", help="chats at the same time")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of each answer")
    parser.add_argument("--rounds", type=int, default=3, help="answers per chat and level")
    parser.add_argument("--mixed", type=int, default=1000, help="requests of the mixed traffic; 0: leave it out")
    parser.add_argument("--starts", type=int, default=5)
    return parser.parse_args()


class Server:
    """The process, on a free port."""

    def __init__(self, options, *more):
        command = [
            options.engine, "serve", "--model-path", options.model_path, "--knowledge", options.knowledge,
            "--device", "cpu", "--threads", str(options.threads), "--port", "0", "--rate-limit", "0",
            "--max-concurrent", "64", "--queue", "2000", "--max-connections", "2000", *more,
        ]  # fmt: skip
        self.started = time.perf_counter()
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        line = json.loads(self.process.stderr.readline())
        host, port = line["address"].rsplit(":", 1)
        self.address = (host, int(port))
        # The log must be read, or its pipe fills up and the server waits.
        self.log = subprocess.Popen(["cat"], stdin=self.process.stderr, stdout=subprocess.DEVNULL)

    def memory(self):
        """Resident memory in MB."""
        with open(f"/proc/{self.process.pid}/status") as status:
            fields = dict(line.split(":", 1) for line in status)
        return int(fields["VmRSS"].split()[0]) / 1000

    def alive(self):
        return self.process.poll() is None

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self.log.wait(10)
        return code


def request_bytes(body):
    payload = json.dumps(body).encode() if not isinstance(body, bytes) else body
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: load\r\nConnection: close\r\nContent-Length: {len(payload)}\r\n\r\n"
    return head.encode() + payload


def chat(tokens, seed, question=QUESTION):
    return {
        "messages": [{"role": "user", "content": question}], "max_tokens": tokens, "seed": seed, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip


async def ask(server, body):
    """One streamed chat: (seconds to the first text, seconds in all, tokens)."""
    start = time.perf_counter()
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(request_bytes(body))
    first, tokens, done = None, None, False
    status = await reader.readline()
    assert b" 200 " in status, status
    async for line in reader:
        if not line.startswith(b"data: "):
            continue
        data = line[6:].strip()
        if data == b"[DONE]":
            done = True
            break
        chunk = json.loads(data)
        assert "error" not in chunk, chunk
        if chunk["choices"] and chunk["choices"][0]["delta"].get("content") and first is None:
            first = time.perf_counter() - start
        if chunk.get("usage"):
            tokens = chunk["usage"]["completion_tokens"]
    writer.close()
    assert done and tokens is not None
    total = time.perf_counter() - start
    return first if first is not None else total, total, tokens


def quantiles(values):
    ordered = sorted(values)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]


def starts(options):
    seconds = []
    for seed in range(options.starts):
        server = Server(options, "--guard", "off")
        first, _, _ = asyncio.run(ask(server, chat(2, seed)))
        seconds.append(time.perf_counter() - server.started)
        server.stop()
    print(f"start of the process to the first token, ms: {', '.join(f'{1000 * s:.0f}' for s in seconds)}\n")


async def level(server, options, count):
    async def citizen(number):
        return [await ask(server, chat(options.tokens, 1000 * number + i)) for i in range(options.rounds)]

    start = time.perf_counter()
    answers = [answer for citizen in await asyncio.gather(*map(citizen, range(count))) for answer in citizen]
    wall = time.perf_counter() - start
    first, late = quantiles([answer[0] for answer in answers])
    tokens = sum(answer[2] for answer in answers)
    each = statistics.median(
        (answer[2] - 1) / (answer[1] - answer[0]) for answer in answers if answer[2] > 1 and answer[1] > answer[0]
    )
    print(f"| {count} | {1000 * first:.0f} | {1000 * late:.0f} | {tokens / wall:.0f} | {each:.0f} |", flush=True)


async def mixed(server, count):
    """Healthy chats among everything that goes wrong; returns the healthy ones' number and how many were answered."""
    draw = random.Random(7)
    gate = asyncio.Semaphore(48)

    async def send(raw):
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(raw)
        return reader, writer

    async def one(number):
        async with gate:
            kind = draw.choice(["healthy", "healthy", "healthy", "malformed", "slow", "leaves", "half", "silent"])
            if kind == "healthy":
                await ask(server, chat(24, number))
                return "answered"
            if kind == "malformed":
                body = draw.choice([b"", b"{", b"[]", b"\xff" * 50, b'{"messages": 3}', b"x" * 100_000])
                reader, writer = await send(request_bytes(body))
                status = await reader.readline()
                assert status.split()[1] in (b"400", b"413"), status
            elif kind == "slow":
                raw = request_bytes(chat(8, number))
                reader, writer = await send(raw[:60])
                for at in range(60, len(raw), 60):
                    await asyncio.sleep(0.02)
                    writer.write(raw[at : at + 60])
                assert b" 200 " in await reader.readline()
            elif kind == "leaves":
                reader, writer = await send(request_bytes(chat(120, number)))
                await reader.readline()
            elif kind == "half":
                reader, writer = await send(request_bytes(chat(8, number))[:150])
            else:
                reader, writer = await send(b"")
            writer.close()
            return kind

    kinds = await asyncio.gather(*(one(number) for number in range(count)), return_exceptions=True)
    failures = [kind for kind in kinds if isinstance(kind, BaseException)]
    for failure in failures[:5]:
        print(f"failed: {failure!r}", file=sys.stderr)
    return kinds.count("answered"), len(failures)


def main():
    options = arguments()
    starts(options)
    server = Server(options, "--guard", "off")
    asyncio.run(ask(server, chat(8, 0)))
    warm = [asyncio.run(ask(server, chat(4, seed)))[0] for seed in range(20)]
    first, late = quantiles(warm)
    print(f"warm, one chat, first token: median {1000 * first:.1f} ms, 95th percentile {1000 * late:.1f} ms\n")
    print("| chats | first token, median, ms | 95th percentile | tokens/s in all | tokens/s of one chat |")
    print("|---|---|---|---|---|")
    for count in map(int, options.levels.split(",")):
        asyncio.run(level(server, options, count))
    assert server.stop() == 0
    if options.mixed == 0:
        return 0

    server = Server(options)
    asyncio.run(mixed(server, 200))
    before = server.memory()
    answered, failed = asyncio.run(mixed(server, options.mixed))
    time.sleep(1)
    after = server.memory()
    alive = server.alive()
    code = server.stop() if alive else server.process.returncode
    print(
        f"\n{options.mixed} mixed requests after 200 others: {answered} healthy ones answered, {failed} failures, "
        f"resident memory {before:.0f} MB before and {after:.0f} MB after, exit code {code}"
    )
    return 0 if alive and failed == 0 and code == 0 else 1


if __name__ == "__main__":
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    sys.exit(main())
