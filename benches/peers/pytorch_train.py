"""Times training steps of the 47M model in PyTorch with Transformers' `MixtralForCausalLM`, on the CPU or on a card.

Needs: pip install torch==2.15.* transformers==5.* numpy   (and a C++ compiler for --compile)
Run:   python benches/peers/pytorch_train.py --threads 2 --dtype fp32
       python benches/peers/pytorch_train.py --threads 2 --sweep      # every sensible variant, then the fastest
       python benches/peers/pytorch_train.py --device cuda:0 --dtype fp16 --accumulation 4 --compile

Prints one line of JSON. A step is what the engine's step is: `accumulation` batches of `batch-size` rows of `max-length`
random tokens, each with its token loss on every position and the router loss; gradients clipped to a global norm of 1;
AdamW without decay on norms. With --batches FILE (written by the engine's bench with --dump) the batches are those of
training: each row holds several examples that do not see each other, and only counted positions go through the head. Masks
are made outside the timed part. Timed from the start of the first forward to the end of the optimizer's update.
"""

import argparse
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import time

VOCAB_SIZE = 50257
PARAMETERS = 46_748_928

# glibc gives large blocks back to the kernel at each free, and every step then faults 200 MB of logits in again.
# Keeping them is what jemalloc or tcmalloc would do for a careful user of PyTorch.
KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "THP_MEM_ALLOC_ENABLE": "1",
}


def parse(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu, or cuda:0")
    parser.add_argument("--dtype", choices=["fp32", "bf16", "fp16"], default="fp32",
                        help="bf16 and fp16 are autocast over fp32 weights; fp16 (on a card) with a gradient scaler")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="torch.compile of the model and the loss")
    parser.add_argument("--optimizer", choices=["fused", "foreach", "forloop"], default="fused")
    parser.add_argument("--experts", choices=["eager", "grouped_mm", "batched_mm"], default="grouped_mm")
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa")
    parser.add_argument("--memory", choices=["keep", "default"], default="keep", help="what glibc does with freed blocks")
    parser.add_argument("--matmul-precision", choices=["highest", "high", "medium"], default="highest",
                        help="below `highest`, fp32 products may be computed in bf16 where the CPU can")
    parser.add_argument("--batches", help="batches to train on, one JSON object per line")
    parser.add_argument("--layout", choices=["rows", "one-row"], default="rows",
                        help="with --batches: rows of max-length, padded, or everything in one row without padding")
    parser.add_argument("--model-path", help="start from this Hugging Face folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sweep", action="store_true", help="run the variants one after the other and name the fastest")
    parser.add_argument("--variant-timeout", type=float, default=600.0, help="seconds a variant of a sweep may take")
    return parser.parse_args(argv)


def make_model(arguments):
    import torch
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(arguments.seed)
    if arguments.model_path:
        return MixtralForCausalLM.from_pretrained(
            arguments.model_path, attn_implementation=arguments.attention,
            experts_implementation=arguments.experts, dtype=torch.float32).train()
    model = MixtralForCausalLM(MixtralConfig(
        vocab_size=VOCAB_SIZE, hidden_size=384, intermediate_size=448, num_hidden_layers=6, num_attention_heads=6,
        num_key_value_heads=3, head_dim=64, num_local_experts=8, num_experts_per_tok=2,
        max_position_embeddings=arguments.max_length, rms_norm_eps=1e-5, hidden_act="silu", tie_word_embeddings=True,
        router_aux_loss_coef=0.02, bos_token_id=50256, eos_token_id=50256,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        attn_implementation=arguments.attention, experts_implementation=arguments.experts)).train()
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS
    return model


def make_optimizer(model, kind):
    import torch

    groups = [{"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
              {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=5e-5, betas=(0.9, 0.95), eps=1e-8, fused=kind == "fused",
                             foreach=kind == "foreach")


def packed_batch(batch, length):
    """Examples one after another in rows of `length` tokens, padded at the end; none sees another."""
    import torch

    rows, begin = [[]], batch["segments"]
    for start, end in zip(begin, begin[1:]):
        if rows[-1] and sum(b - a for a, b in rows[-1]) + end - start > length:
            rows.append([])
        rows[-1].append((start, end))
    tokens = torch.zeros((len(rows), length), dtype=torch.long)
    positions = torch.zeros_like(tokens)
    targets = torch.full_like(tokens, -100)
    example = torch.full_like(tokens, -1)
    for r, examples in enumerate(rows):
        at = 0
        for number, (start, end) in enumerate(examples):
            here = slice(at, at + end - start)
            tokens[r, here] = torch.tensor(batch["tokens"][start:end])
            positions[r, here] = torch.tensor(batch["positions"][start:end])
            targets[r, here] = torch.tensor(batch["targets"][start:end])
            example[r, here] = number
            at += end - start
    place = torch.arange(length)
    mask = (example[:, :, None] == example[:, None, :]) & (place[:, None] >= place[None, :])
    targets = targets.reshape(-1)
    counted = (targets >= 0).nonzero().squeeze(1)
    return tokens, positions, mask[:, None], targets[counted], counted, len(batch["tokens"])


def make_step(arguments):
    """A function that runs one training step on batches and returns its mean token loss and the tokens that it saw, and one
    that makes the batches of a step."""
    import torch

    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    device = torch.device(arguments.device)
    model = make_model(arguments).to(device)
    optimizer = make_optimizer(model, arguments.optimizer)
    generator = torch.Generator().manual_seed(arguments.seed)
    autocast = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[arguments.dtype]
    scaler = torch.amp.GradScaler(device.type, enabled=arguments.dtype == "fp16")

    def loss_of(inputs, positions, mask, targets, counted):
        out = model.model(input_ids=inputs, position_ids=positions, attention_mask=mask, output_router_logits=True,
                          use_cache=False)
        balance = load_balancing_loss_func(out.router_logits, model.num_experts, model.num_experts_per_tok)
        hidden = out.last_hidden_state.reshape(-1, out.last_hidden_state.shape[-1])
        if counted is not None:
            hidden = hidden[counted]
        logits = model.lm_head(hidden).float()
        token_loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
        return token_loss, model.config.router_aux_loss_coef * balance

    run = torch.compile(loss_of) if arguments.compile else loss_of
    file = open(arguments.batches) if arguments.batches else None

    def next_batch():
        """Token ids and positions [rows, length], attention mask, counted targets, their places (None: all), number of tokens."""
        if file is None:
            tokens = torch.randint(0, VOCAB_SIZE, (arguments.batch_size, arguments.max_length + 1), generator=generator)
            return tokens[:, :-1], None, None, tokens[:, 1:].reshape(-1), None, tokens[:, 1:].numel()
        batch = json.loads(file.readline())
        return packed_batch(batch, arguments.max_length if arguments.layout == "rows" else len(batch["tokens"]))

    def step(batches):
        optimizer.zero_grad(set_to_none=True)
        all_counted = sum(len(batch[3]) for batch in batches)
        total, tokens = 0.0, 0
        for *tensors, count in batches:
            tensors = [None if tensor is None else tensor.to(device, non_blocking=True) for tensor in tensors]
            with torch.autocast(device.type, autocast, enabled=autocast is not None):
                token_loss, balance = run(*tensors)
            scaler.scale(token_loss / all_counted + balance / arguments.accumulation).backward()
            total = total + token_loss.detach() / all_counted
            tokens += count
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        # The one wait for the device in a step.
        return float(total), tokens

    return step, lambda: [next_batch() for _ in range(arguments.accumulation)]


def measure(arguments):
    import torch
    import transformers

    torch.set_num_threads(arguments.threads)
    torch.set_num_interop_threads(1)
    torch.set_float32_matmul_precision(arguments.matmul_precision)
    torch.set_flush_denormal(True)
    step, make_batches = make_step(arguments)
    losses = [step(make_batches())[0] for _ in range(arguments.warmup)]
    seconds, speeds = [], []
    for _ in range(arguments.steps):
        batches = make_batches()
        start = time.perf_counter()
        loss, tokens = step(batches)
        seconds.append(time.perf_counter() - start)
        speeds.append(tokens / seconds[-1])
        losses.append(loss)
    return {
        "peer": "pytorch",
        "device": str(arguments.device) if arguments.device == "cpu" else torch.cuda.get_device_name(arguments.device),
        "peak_device_bytes": None if arguments.device == "cpu" else torch.cuda.max_memory_allocated(arguments.device),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cpu": cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        **{name: getattr(arguments, name) for name in (
            "threads", "dtype", "batch_size", "max_length", "accumulation", "compile", "optimizer", "experts",
            "attention", "memory", "matmul_precision", "layout", "warmup", "steps")},
        "seconds_per_step_median": round(statistics.median(seconds), 4),
        "seconds_per_step_min": round(min(seconds), 4),
        "seconds_per_step_max": round(max(seconds), 4),
        "tokens_per_second": round(statistics.median(speeds), 1),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "first_token_loss": round(losses[0], 4),
        "last_token_loss": round(losses[-1], 4),
    }


def cpu_name():
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def restart_with_environment(arguments):
    """Threads and the allocator are settled by the environment before Python starts, so start over once."""
    wanted = {"OMP_NUM_THREADS": str(arguments.threads), "MKL_NUM_THREADS": str(arguments.threads)}
    if arguments.memory == "keep":
        wanted |= KEEP_MEMORY
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | wanted)


def run_variant(options, timeout):
    """The variant's result, or a sentence saying why there is none."""
    try:
        done = subprocess.run([sys.executable, __file__, *options], capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return f"not done after {timeout:.0f} s"
    if done.returncode != 0:
        return f"failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
    return json.loads(done.stdout.strip().splitlines()[-1])


def sweep(arguments):
    """Each variant in a process of its own; the variants that differ from the base by one choice, and the compiled ones."""
    shared = ["--threads", arguments.threads, "--batch-size", arguments.batch_size, "--max-length", arguments.max_length,
              "--accumulation", arguments.accumulation, "--steps", arguments.steps, "--warmup", arguments.warmup,
              "--seed", arguments.seed]
    variants = []
    for dtype in ("fp32", "bf16"):
        for experts in ("eager", "grouped_mm"):  # batched_mm copies the weights per token: 25 GB kept for backward
            variants.append(["--dtype", dtype, "--experts", experts])
            variants.append(["--dtype", dtype, "--experts", experts, "--compile"])
    for change in (["--attention", "eager"], ["--optimizer", "foreach"], ["--memory", "default"]):
        variants.append(["--dtype", "fp32", *change])
    results, unmeasured = [], []
    for variant in variants:
        result = run_variant([*map(str, shared), *variant], arguments.variant_timeout)
        if isinstance(result, str):
            unmeasured.append(f"{' '.join(variant)}: {result}")
            print(unmeasured[-1], file=sys.stderr)
            continue
        results.append(result)
        print(f"{result['tokens_per_second']:9.1f} tokens/s  {result['peak_rss_bytes'] / 2**30:5.2f} GiB  {' '.join(variant)}",
              file=sys.stderr)
    if not results:
        raise SystemExit("no variant ran")
    return max(results, key=lambda result: result["tokens_per_second"]) | {
        "best_of": len(results), "not_measured": unmeasured}


def main():
    arguments = parse()
    if arguments.sweep:
        print(json.dumps(sweep(arguments)))
        return
    restart_with_environment(arguments)
    print(json.dumps(measure(arguments)))


if __name__ == "__main__":
    main()
