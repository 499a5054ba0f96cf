"""Tokenizing speed of the engine, of Hugging Face's tokenizers used plainly, and of tiktoken, on the same texts and one thread.

Needs: pip install tokenizers tiktoken
Use:   muni-engine dataset --stage ultra --jsonl ultra.jsonl
       python benches/peers/tokenizers_speed.py --jsonl ultra.jsonl [--rounds 5]
Prints a line of JSON with MB/s (best of the rounds, rounds interleaved) and checks that all give the same tokens.
"""

import argparse
import json
import os
import pathlib
import subprocess
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import tiktoken  # noqa: E402
from tokenizers import ByteLevelBPETokenizer  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
ASSETS = ROOT / "assets" / "gpt2"


def byte_alphabet():
    """GPT-2's printable stand-in for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    stand_ins = {byte: chr(byte) for byte in printable}
    spare = (chr(256 + n) for n in range(256))
    for byte in range(256):
        if byte not in stand_ins:
            stand_ins[byte] = next(spare)
    return {character: byte for byte, character in stand_ins.items()}


def tiktoken_gpt2():
    """tiktoken's GPT-2 from the engine's own vocabulary, so that nothing is downloaded."""
    alphabet = byte_alphabet()
    vocabulary = json.loads((ASSETS / "vocab.json").read_text())
    end = vocabulary.pop("<|endoftext|>")
    ranks = {bytes(alphabet[c] for c in token): rank for token, rank in vocabulary.items()}
    pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
    return tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": end})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jsonl", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    texts = [json.loads(line)["text"] for line in open(arguments.jsonl, encoding="utf-8")]
    size = sum(len(text.encode()) for text in texts) / 1e6
    hugging_face = ByteLevelBPETokenizer(str(ASSETS / "vocab.json"), str(ASSETS / "merges.txt"))
    tik = tiktoken_gpt2()
    ways = {
        "hf_tokenizers": lambda: sum(len(hugging_face.encode(text).ids) for text in texts),
        "hf_tokenizers_batch": lambda: sum(len(encoding.ids) for encoding in hugging_face.encode_batch(texts)),
        "tiktoken": lambda: sum(len(tik.encode_ordinary(text)) for text in texts),
    }
    best = {name: float("inf") for name in ways}
    counts = {}
    engine = None
    for _ in range(arguments.rounds):
        for name, run in ways.items():
            begin = time.perf_counter()
            counts[name] = run()
            best[name] = min(best[name], time.perf_counter() - begin)
        command = ["cargo", "bench", "--quiet", "--bench", "tokenizer", "--", "--jsonl", os.path.abspath(arguments.jsonl), "--rounds", "1"]
        line = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip().splitlines()[-1]
        measured = json.loads(line)
        if engine is None or measured["engine_mb_per_s"] > engine["engine_mb_per_s"]:
            engine = measured
    counts["engine"] = engine["tokens"]
    assert len(set(counts.values())) == 1, f"different tokens: {counts}"
    result = {"mb": round(size, 2), "texts": len(texts), "tokens": counts["engine"], "engine_mb_per_s": engine["engine_mb_per_s"]}
    result |= {f"{name}_mb_per_s": round(size / seconds, 2) for name, seconds in best.items()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
