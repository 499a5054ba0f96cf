"""Times the engine and PyTorch on the same training step, alternately, and prints the ratio of the medians.

Needs: what pytorch_train.py needs, and a built engine bench (`cargo bench --bench throughput --no-run`).
Run:   python benches/peers/compare.py --rounds 3            # from the repository's root; random tokens, a fresh model
       python benches/peers/compare.py --precision bf16 [--compile]   # on a processor that multiplies bf16
       python benches/peers/compare.py --shards shards/ --loss-on answers [--model-path DIR]   # the batches of training
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

ARGUMENTS = argparse.ArgumentParser(description=__doc__.splitlines()[0])
ARGUMENTS.add_argument("--rounds", type=int, default=3, help="pairs of runs")
ARGUMENTS.add_argument("--steps", type=int, default=5, help="timed steps of each run")
ARGUMENTS.add_argument("--threads", type=int, default=2)
ARGUMENTS.add_argument("--accumulation", type=int, default=1)
ARGUMENTS.add_argument("--shards", help="time the batches of this shard folder and not random tokens")
ARGUMENTS.add_argument("--loss-on", choices=["all", "answers"], default="all", help="with --shards: which tokens carry loss")
ARGUMENTS.add_argument("--model-path", help="a trained model to start from, a Hugging Face folder, and not a fresh one")
ARGUMENTS.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of both: what factors of products are rounded to")
ARGUMENTS.add_argument("--compile", action="store_true", help="have PyTorch compile the model and the loss")
ARGUMENTS.add_argument("--experts", choices=["eager", "grouped_mm"], default="grouped_mm", help="how PyTorch computes the experts")


def last_json(command, **environment):
    """The JSON object on the last line that a command prints."""
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    args = ARGUMENTS.parse_args()
    shape = ["--steps", str(args.steps), "--warmup", "2", "--batch-size", "4", "--max-length", "256"]
    shape += ["--accumulation", str(args.accumulation)]
    engine = ["cargo", "bench", "--quiet", "--bench", "throughput", "--", *shape]
    script = os.path.join(os.path.dirname(__file__), "pytorch_train.py")
    peer = [sys.executable, script, "--threads", str(args.threads), "--dtype", args.precision, *shape, "--experts", args.experts]
    engine += ["--precision", args.precision]
    if args.compile:
        peer.append("--compile")
    with tempfile.TemporaryDirectory() as folder:
        if args.model_path:
            engine += ["--model-path", args.model_path]
            peer += ["--model-path", args.model_path]
        if args.shards:
            batches = os.path.join(folder, "batches.jsonl")
            engine += ["--shards", args.shards, "--loss-on", args.loss_on, "--dump", batches]
            peer += ["--batches", batches]
        compare(args, engine, peer)


def compare(args, engine, peer):
    """Runs both in turn and prints what came out."""
    ours, theirs = [], []
    for _ in range(args.rounds):
        ours.append(last_json(engine, RAYON_NUM_THREADS=str(args.threads)))
        theirs.append(last_json(peer))
        print(f"engine {ours[-1]['tokens_per_second']:.0f} tokens/s, PyTorch {theirs[-1]['tokens_per_second']:.0f} tokens/s", flush=True)
    ratios = [a["tokens_per_second"] / b["tokens_per_second"] for a, b in zip(ours, theirs)]
    median = lambda runs: statistics.median(run["tokens_per_second"] for run in runs)
    print(json.dumps({
        "engine_tokens_per_second": round(median(ours), 1),
        "pytorch_tokens_per_second": round(median(theirs), 1),
        "ratio_of_medians": round(median(ours) / median(theirs), 3),
        "median_of_paired_ratios": round(statistics.median(ratios), 3),
        "engine_peak_mib": max(run["peak_rss_mib"] for run in ours),
        "pytorch_peak_mib": max(run["peak_rss_bytes"] for run in theirs) // 2**20,
        "device": ours[0]["device"], "experts": args.experts, "torch": theirs[0]["torch"], "rounds": args.rounds, "steps": args.steps,
        "accumulation": args.accumulation, "shards": args.shards, "loss_on": args.loss_on, "model_path": args.model_path,
        "engine_loss": ours[0]["loss"], "pytorch_loss": theirs[0]["last_token_loss"],
    }))


if __name__ == "__main__":
    main()
