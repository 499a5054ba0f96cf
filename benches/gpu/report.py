#!/usr/bin/env python3
"""Checks the kernels on a card and measures them: one command, one report, under nine minutes.

Needs: the built binary and Python 3. Uses where present: PyTorch with Transformers (throughput), compute-sanitizer. Needs no
network, no cargo and no nvcc.
Run:   python3 benches/gpu/report.py                        # writes gpu-report.md and gpu-report.json
       python3 benches/gpu/report.py --sim                  # the same on the simulator with tiny sizes, to see that the script works

Every step has a time limit of its own; one that fails or is late is told in the report, and the others go on. The exit code is 1
where a step failed that could run.
"""

import argparse
import glob
import json
import os
import pathlib
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# The whole: nothing begins that could end later.
BUDGET = 510.0
NO_BINARY = "there is no binary: build it (cargo build --release), or name it with --engine"
# Largest relative difference of a step's loss from the CPU's: docs/numerics.md.
CURVE_BOUND = 4e-3
TINY = {
    "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "vocab_size": 50257, "hidden_size": 16,
    "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 16,
    "num_local_experts": 4, "num_experts_per_tok": 2, "max_position_embeddings": 256, "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5, "router_aux_loss_coef": 0.02, "initializer_range": 0.02, "tie_word_embeddings": True,
    "hidden_act": "silu", "bos_token_id": 50256, "eos_token_id": 50256,
}


class Skipped(Exception):
    """A step that cannot run here, and why."""


class Failed(Exception):
    """A step that ran and found something wrong."""


def parse(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", type=pathlib.Path, help="the binary [default: target/release/muni-engine, or the one beside this script]")
    parser.add_argument("--shards", type=pathlib.Path, default=ROOT / "shards", help="data for the runs [default: the bundled set]")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("."), help="folder of the report")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--sim", action="store_true", help="on the simulator, tiny")
    parser.add_argument("--run-seconds", type=float, help="length of the massive preset's run [default: 180; 3 with --sim]")
    parser.add_argument("--only", nargs="*", help="names of steps to run")
    arguments = parser.parse_args(argv)
    if arguments.sim:
        arguments.device = "sim"
    if arguments.run_seconds is None:
        arguments.run_seconds = 3.0 if arguments.sim else 180.0
    return arguments


def newest(patterns):
    found = [path for pattern in patterns for path in glob.glob(str(pattern)) if os.access(path, os.X_OK) and not path.endswith(".d")]
    return pathlib.Path(max(found, key=os.path.getmtime)) if found else None


class Report:
    """What the steps share: where things are, how long is left."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.began = time.monotonic()
        self.engine = arguments.engine or newest([ROOT / "target/release/muni-engine", pathlib.Path(__file__).parent / "muni-engine",
                                                  ROOT / "target/debug/muni-engine"])
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="muni-gpu-"))
        self.tiny = self.work / "tiny.json"
        self.tiny.write_text(json.dumps(TINY))
        self.facts = {}

    def left(self):
        return BUDGET - (time.monotonic() - self.began)

    def run(self, command, limit, environment=None, check=True):
        """Standard output and error of a command that ends in time with exit code 0."""
        command = [str(part) for part in command]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env={**os.environ, **(environment or {})},
                                  errors="replace")
        except subprocess.TimeoutExpired:
            raise Failed(f"not done after {limit:.0f} s: {' '.join(command)}") from None
        except OSError as error:
            raise Failed(f"{command[0]}: {error}") from None
        if check and done.returncode != 0:
            text = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise Failed(f"exit code {done.returncode}: {' '.join(command)}\n" + "\n".join(text[-15:]))
        return done

    def engine_run(self, *arguments, limit, environment=None):
        if self.engine is None:
            raise Failed(NO_BINARY)
        return self.run([self.engine, *arguments], limit, environment)

    def model(self):
        return ["--model-config", self.tiny] if self.arguments.sim else []


# Steps: each returns a dictionary for the report, whose `summary` is one line for people.


def doctor(report, limit):
    found = json.loads(report.engine_run("doctor", "--json", limit=limit).stdout)
    if not report.arguments.sim and not found["cards"]:
        raise Failed(f"no card can be used: {found['why_no_card']}")
    report.facts["card"] = found["cards"][0]["name"] if found["cards"] else "simulator"
    return {"summary": f"{report.facts['card']}; kernels {found['kernels']}; {found['cpu']}", **found}


def plan(report, limit):
    name = ["--gpu", "rtx3070"] if report.arguments.sim else []
    try:
        found = json.loads(report.engine_run("doctor", "--plan", "--json", *name, limit=limit).stdout)
    except Failed as why:
        if "no card that plans are made for" in str(why):
            raise Skipped("the table of cards does not have this one") from None
        raise
    report.facts["plan"] = found
    return {"summary": f"{found['prediction']['tokens_per_second']:.0f} tokens/s predicted for a {found['card']['name']}, "
                       f"{found['total_bytes'] / 2**30:.2f} GiB planned", **found}


def check_kernels(report, limit, groups):
    """What the binary's own checks of these groups find on the device, against the manual's tables and the reference device."""
    if report.engine is None:
        raise Failed(NO_BINARY)
    command = [report.engine, "doctor", "--check-kernels", "--json", "--device", report.arguments.device, "--only", *groups]
    done = report.run(command, limit, check=False)
    try:
        found = json.loads(done.stdout)
    except ValueError:
        raise Failed(f"exit code {done.returncode}, and no result: {done.stderr.strip()[-1500:]}") from None
    failed = [check for check in found["checks"] if not check["passed"]]
    if failed or done.returncode != 0 or found["failed"] != 0:
        lines = [f"{check['check']} {check['precision'] or ''}: {check['failed_cases']} of {check['cases']} cases failed: {finding}"
                 for check in failed for finding in check["findings"]]
        raise Failed(f"{len(failed)} of {len(found['checks'])} checks failed\n" + "\n".join(lines[:30] or [done.stderr.strip()[-1500:]]))
    if found["passed"] == 0 or found["cases"] == 0 or found["values"] == 0:
        raise Failed(f"no check ran: {groups}")
    return {"summary": f"{found['passed']} checks, {found['cases']} cases, {found['values']} values on {found['device'][0]}", **found}


def conformance(report, limit):
    return check_kernels(report, limit, ["conformance"])


def cases(report, limit):
    groups = ["dense/embedding", "dense/rope"] if report.arguments.sim else ["dense", "attention", "moe", "head", "optimizer"]
    return check_kernels(report, limit, groups)


def metrics(out):
    path = out / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []


def train(report, name, device, *more, enough, limit):
    """Trains until `enough(steps done)`, then Ctrl-C: the run must save and end well. Its metrics, and what it said."""
    if report.engine is None:
        raise Failed(NO_BINARY)
    out = report.work / name
    command = [report.engine, "train", "--shards", report.arguments.shards, "--out", out, "--device", device, *report.model(), *more]
    deadline = time.monotonic() + limit
    with (report.work / f"{name}.log").open("w+") as log:
        child = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)
        try:
            while child.poll() is None and time.monotonic() < deadline and not enough(len(metrics(out))):
                time.sleep(0.1)
            late = time.monotonic() >= deadline
            if child.poll() is None:
                child.send_signal(signal.SIGINT)
            child.wait(timeout=20.0)
        except subprocess.TimeoutExpired:
            raise Failed(f"{name}: the run did not stop within 20 s of Ctrl-C") from None
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        log.seek(0)
        said = log.read()
    if child.returncode != 0:
        raise Failed(f"{name}: exit code {child.returncode}: {said[-1500:]}")
    if late:
        raise Failed(f"{name}: {len(metrics(out))} steps in {limit:.0f} s, which is not enough")
    if not any((out / "checkpoints").iterdir()):
        raise Failed(f"{name}: no checkpoint was saved")
    return metrics(out), said


def curve(report, limit):
    """The first steps on real data, on the card and on the CPU; both are stopped as soon as they are done."""
    steps, rows, length = (2, "1", "24") if report.arguments.sim else (16, "2", "256")
    more = ["--preset", "super", "--batch-size", rows, "--max-length", length, "--loss-on", "all", "--max-steps", "1000", "--warmup-steps", "2",
            "--eval-every", "1000", "--save-every", "1000", "--metrics-every", "1"]
    # The rest is for runs to save and end in.
    half = 0.4 * limit
    runs = [train(report, f"curve-{name}", device, *more, enough=lambda done: done >= steps, limit=half)[0][:steps]
            for name, device in (("card", report.arguments.device), ("cpu", "cpu"))]
    pairs = [(a["loss"], b["loss"]) for a, b in zip(*runs)]
    largest = max(abs(a / b - 1.0) for a, b in pairs)
    if not largest <= CURVE_BOUND:
        raise Failed(f"the losses differ by up to {largest:.1e}, more than {CURVE_BOUND:.0e}: {pairs}")
    return {"summary": f"{len(pairs)} steps, losses {pairs[0][0]:.4f} to {pairs[-1][0]:.4f}, at most {largest:.1e} from the CPU's (bound {CURVE_BOUND:.0e})",
            "largest_relative_difference": largest, "losses": pairs}


def shape(report):
    if report.arguments.sim:
        return ["--batch-size", "1", "--max-length", "24", "--accumulation", "2", "--steps", "1", "--warmup", "1"]
    return ["--batch-size", "4", "--max-length", "256", "--accumulation", "4", "--steps", "20", "--warmup", "3"]


def throughput(report, limit):
    done = report.engine_run("measure", "--device", report.arguments.device, *report.model(), *shape(report), limit=limit)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    report.facts["engine"] = found
    return {"summary": f"{found['tokens_per_second']:.0f} tokens/s ({found['device']})", **found}


def pytorch(report, limit, *variant):
    if report.arguments.sim:
        raise Skipped("PyTorch cannot run on the simulator")
    probe = report.run([sys.executable, "-c", "import torch, transformers; print(torch.cuda.is_available())"], 30.0, check=False)
    if probe.stdout.strip() != "True":
        raise Skipped("no PyTorch with CUDA and Transformers in this Python")
    command = [sys.executable, ROOT / "benches/peers/pytorch_train.py", "--device", report.arguments.device, "--dtype", "fp16",
               *shape(report), *variant]
    found = json.loads(report.run(command, limit).stdout.strip().splitlines()[-1])
    report.facts.setdefault("pytorch", []).append(found)
    ours = report.facts.get("engine")
    beside = f", the engine is {ours['tokens_per_second'] / found['tokens_per_second']:.2f} times as fast" if ours else ""
    return {"summary": f"{found['tokens_per_second']:.0f} tokens/s{beside}", **found}


def pytorch_eager(report, limit):
    return pytorch(report, limit, "--experts", "eager")


def pytorch_grouped(report, limit):
    return pytorch(report, limit, "--experts", "grouped_mm")


def pytorch_compiled(report, limit):
    return pytorch(report, limit, "--experts", "grouped_mm", "--compile")


def massive(report, limit):
    """The reference preset for three minutes."""
    more = ["--max-length", "24", "--batch-size", "1", "--metrics-every", "1"] if report.arguments.sim else []
    stop = time.monotonic() + min(report.arguments.run_seconds, limit - 25.0)
    # At least two steps, however slow the device is.
    found, said = train(report, "massive", report.arguments.device, "--preset", "massive", "--epochs", "1000", "--eval-every", "100000",
                        *more, enough=lambda done: done >= 2 and time.monotonic() >= stop, limit=limit - 20.0)
    steady = [line["tokens_per_second"] for line in found[len(found) // 4:]]
    result = {"steps": found[-1]["step"], "tokens": found[-1]["tokens"], "first_loss": found[0]["loss"], "last_loss": found[-1]["loss"],
              "tokens_per_second_median": statistics.median(steady),
              "memory": next((line for line in said.splitlines() if line.startswith("memory:")), None)}
    predicted = report.facts.get("plan", {}).get("prediction", {}).get("tokens_per_second")
    beside = f" ({predicted:.0f} predicted)" if predicted and not report.arguments.sim else ""
    return {"summary": f"{result['steps']} steps, loss {result['first_loss']:.3f} to {result['last_loss']:.3f}, "
                       f"{result['tokens_per_second_median']:.0f} tokens/s{beside}", **result}


def profile(report, limit):
    done = report.engine_run("measure", "--device", report.arguments.device, *report.model(), *shape(report), "--profile", limit=limit)
    _, found, table = done.stderr.partition("\nprofile of ")
    if not found:
        raise Failed("no profile was printed")
    table = "profile of " + table
    return {"summary": table.splitlines()[0], "table": table}


def sanitizer(report, limit):
    tool = shutil.which("compute-sanitizer") or newest([pathlib.Path("/usr/local/cuda/bin/compute-sanitizer")])
    if report.arguments.sim:
        raise Skipped("the simulator is not for compute-sanitizer; its own cases run under AddressSanitizer")
    if tool is None:
        raise Skipped("compute-sanitizer is not installed")
    command = [tool, "--tool", "memcheck", "--error-exitcode", "9", report.engine, "measure", "--device", report.arguments.device,
               "--model-config", report.tiny, "--batch-size", "2", "--max-length", "64", "--accumulation", "1", "--steps", "1", "--warmup", "0"]
    report.run(command, limit)
    return {"summary": "memcheck found nothing in a training step"}


# Name, function, seconds that it may take. The order is by worth: what comes last gives way where time is short.
STEPS = [
    ("doctor", doctor, 20.0),
    ("plan", plan, 20.0),
    ("conformance", conformance, 40.0),
    ("case table", cases, 90.0),
    ("loss curve beside the CPU", curve, 100.0),
    ("throughput", throughput, 40.0),
    ("PyTorch, eager", pytorch_eager, 50.0),
    ("massive preset, three minutes", massive, 225.0),
    ("profile", profile, 40.0),
    ("PyTorch, grouped_mm", pytorch_grouped, 50.0),
    ("compute-sanitizer", sanitizer, 60.0),
    ("PyTorch, compiled", pytorch_compiled, 120.0),
]


def markdown(report, results):
    arguments = report.arguments
    lines = ["# Report of a card" if not arguments.sim else "# Report of the simulator", "",
             f"{report.facts.get('card', 'no card')}, {platform.platform()}, {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, "
             f"`{report.engine}`, {time.monotonic() - report.began:.0f} s in all.", "",
             "| step | result | seconds | |", "|---|---|---|---|"]
    for result in results:
        text = (result.get("summary") or result.get("why", "")).splitlines()[0].replace("|", "\\|")
        lines.append(f"| {result['step']} | {result['status']} | {result['seconds']:.1f} | {text} |")
    for result in results:
        if result["status"] == "failed":
            lines += ["", f"## Failed: {result['step']}", "", "```", result["why"], "```"]
        if "table" in result:
            lines += ["", f"## {result['step'].capitalize()}", "", "```", result["table"].rstrip(), "```"]
    return "\n".join(lines) + "\n"


def main():
    arguments = parse()
    report = Report(arguments)
    results = []
    try:
        for name, step, limit in STEPS:
            if arguments.only and name not in arguments.only:
                continue
            began = time.monotonic()
            result = {"step": name}
            try:
                limit = min(limit, report.left())
                if limit < 3.0:
                    raise Skipped("no time left")
                result |= {"status": "passed", **step(report, limit)}
            except Skipped as why:
                result |= {"status": "skipped", "why": str(why)}
            except Failed as why:
                result |= {"status": "failed", "why": str(why)}
            except Exception as why:  # a step's own error must not cost the others
                result |= {"status": "failed", "why": f"{type(why).__name__}: {why}"}
            result["seconds"] = round(time.monotonic() - began, 1)
            results.append(result)
            print(f"{result['status']:>8}  {name}: {(result.get('summary') or result.get('why', '')).splitlines()[0]}", file=sys.stderr)
    finally:
        shutil.rmtree(report.work, ignore_errors=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = {"device": arguments.device, "engine": str(report.engine), "platform": platform.platform(),
            "seconds": round(time.monotonic() - report.began, 1), "steps": results}
    (arguments.out / "gpu-report.json").write_text(json.dumps(text, indent=1) + "\n")
    (arguments.out / "gpu-report.md").write_text(markdown(report, results))
    print(f"written: {arguments.out / 'gpu-report.md'}, {arguments.out / 'gpu-report.json'}")
    return 1 if any(result["status"] == "failed" for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
