"""Tokenizing speed of the engine, of Hugging Face's tokenizers and of tiktoken on the same texts, with one thread and with several.

Needs: pip install tokenizers tiktoken
Use:   muni-engine dataset --stage massive --jsonl massive.jsonl
       python benches/peers/tokenizers_speed.py --jsonl massive.jsonl [--every 10] [--rounds 3] [--threads 2]
Prints a table with MB/s (best of the rounds, rounds interleaved). All must give the same ids, or it fails. Nothing is downloaded:
everybody gets the vocabulary of assets/gpt2/.
"""

import argparse
import array
import hashlib
import json
import os
import pathlib
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
ASSETS = ROOT / "assets" / "gpt2"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jsonl", required=True, type=pathlib.Path, help="examples of a data set")
    parser.add_argument("--every", type=int, default=1, help="take one text of so many")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def peers(threads):
    """Name, threads, and a function from texts to lists of ids."""
    # Read by the library's thread pool when it starts.
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    os.environ["TIKTOKEN_CACHE_DIR"] = ""  # no copy of local files
    import tiktoken
    import tokenizers
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks
    from tiktoken_ext.openai_public import r50k_pat_str

    vocabulary, merges = str(ASSETS / "vocab.json"), str(ASSETS / "merges.txt")
    hugging_face = tokenizers.ByteLevelBPETokenizer(vocabulary, merges)
    ranks = data_gym_to_mergeable_bpe_ranks(vocab_bpe_file=merges, encoder_json_file=vocabulary)
    tik = tiktoken.Encoding("gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256})
    hf, tt = f"tokenizers {tokenizers.__version__}", f"tiktoken {tiktoken.__version__}"
    return [
        (f"{hf}, encode in a loop", 1, lambda texts: [hugging_face.encode(text).ids for text in texts]),
        (f"{hf}, encode_batch", threads, lambda texts: [one.ids for one in hugging_face.encode_batch(texts)]),
        (f"{hf}, encode_batch_fast", threads, lambda texts: [one.ids for one in hugging_face._tokenizer.encode_batch_fast(texts)]),
        (f"{tt}, encode_ordinary in a loop", 1, lambda texts: [tik.encode_ordinary(text) for text in texts]),
        (f"{tt}, encode_ordinary_batch", threads, lambda texts: tik.encode_ordinary_batch(texts, num_threads=threads)),
    ]


def fingerprint(ids):
    """SHA-256 over each text's number of ids and the ids, as 32-bit numbers; the engine's bench prints the same."""
    digest = hashlib.sha256()
    for of_text in ids:
        digest.update(array.array("I", [len(of_text), *of_text]).tobytes())
    return digest.hexdigest()


def engine(options):
    """One round of the engine's own bench, in a new process."""
    command = ["cargo", "bench", "--quiet", "--locked", "--bench", "tokenizer", "--", "--rounds", "1"]
    command += ["--jsonl", str(options.jsonl.resolve()), "--every", str(options.every), "--threads", str(options.threads)]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.strip().splitlines()[-1])


def main():
    options = arguments()
    with open(options.jsonl, encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for number, line in enumerate(lines) if number % options.every == 0]
    size = sum(len(text.encode()) for text in texts) / 1e6
    ways = peers(options.threads)
    best, found = {}, {}
    for _ in range(options.rounds):
        for name, threads, run in ways:
            begin = time.perf_counter()
            ids = run(texts)
            seconds = time.perf_counter() - begin
            best[name, threads] = max(best.get((name, threads), 0), size / seconds)
            if name not in found:
                found[name] = fingerprint(ids)
        measured = engine(options)
        for way in measured["ways"]:
            key = (f"muni-engine, {way['name']}", way["threads"])
            best[key] = max(best.get(key, 0), way["mb_per_s"])
            found[key[0]] = way["ids_sha256"]
    if len(set(found.values())) != 1:
        raise SystemExit(f"the ids differ: {json.dumps(found, indent=2)}")
    print(f"{len(texts)} texts, {size:.1f} MB, {measured['tokens']} tokens, the same ids from all")
    print("\n| | threads | MB/s | MB/s per thread |\n|---|---|---|---|")
    for (name, threads), rate in sorted(best.items(), key=lambda item: (item[0][1], -item[1])):
        print(f"| {name} | {threads} | {rate:.1f} | {rate / threads:.1f} |")


if __name__ == "__main__":
    main()
