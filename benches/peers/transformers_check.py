"""Opens a model folder that the engine wrote in Transformers, and compares what both say.

Needs: pip install torch==2.11.* transformers==5.* safetensors numpy
Run:   python benches/peers/transformers_check.py --model-path runs/NAME/best_model --engine target/release/muni-engine

Compared: the folder's weights (all used, none missing), the tokenizer against tests/fixtures/tokenizer.json, the summed
loss of a text against `muni-engine eval perplexity`, and greedy answers against `muni-engine prompt --temperature 0`.
Prints one line of JSON; the exit code is 1 if anything differs. What differs is told on stderr.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging

END_OF_TEXT = "<|endoftext|>"
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
NLL_TOLERANCE = 1e-4  # relative
# Where two tokens are this close in Transformers' own logits, either is a right greedy choice.
NEAR_TIE = 1e-3

PROMPTS = [
    "Frage: Wo kann ich mich ummelden?\nAntwort:",
    "Frage: Was kostet ein Führungszeugnis?\nAntwort:",
    "Frage: Welche Unterlagen brauche ich für die Anmeldung eines Gewerbes?\nAntwort:",
    "Öffnungszeiten",
]

TEXT = """Frage: Bis wann muss ich mich nach dem Umzug ummelden?
Antwort: Die Anmeldung muss innerhalb von zwei Wochen nach dem Einzug erfolgen. Vor dem Einzug ist sie nicht möglich.

Sehr geehrte Damen und Herren,\r
für die Ummeldung benötigen Sie Ihren Personalausweis – und die Wohnungsgeberbestätigung (37,00 €). 👋🏽
""" * 8


def engine_json(engine, *arguments):
    """The JSON object that the engine printed last (streamed answers may print lines before it)."""
    done = subprocess.run([engine, *map(str, arguments)], capture_output=True)
    if done.returncode != 0:
        raise SystemExit(f"{engine} {' '.join(map(str, arguments))} failed with exit code {done.returncode}:\n"
                         f"{done.stderr.decode(errors='replace')}")
    out = done.stdout.decode("utf-8")
    for candidate in (out, (out.strip().splitlines() or [""])[-1]):
        try:
            return json.loads(candidate)
        except json.JSONDecodeError:
            continue
    raise SystemExit(f"{engine} {' '.join(map(str, arguments))} printed no JSON but: {out[:500]!r}")


def load(folder):
    """(model in float32, tokenizer, complaints about the folder)."""
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager",
        output_loading_info=True)
    complaints = [f"weights: {kind}: {sorted(map(str, names))}" for kind, names in info.items() if names]
    if type(model).__name__ != "MixtralForCausalLM":
        complaints.append(f"opens as {type(model).__name__}, not as MixtralForCausalLM")
    return model.eval(), AutoTokenizer.from_pretrained(folder), complaints


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def check_tokenizer(tokenizer, cases):
    complaints = []
    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    for role, token_id in (("bos", tokenizer.bos_token_id), ("eos", tokenizer.eos_token_id)):
        if token_id != end:
            complaints.append(f"tokenizer: {role} is {token_id}, expected {end}")
    for case in cases["encode"]:
        ids = ids_of(tokenizer, case["text"])
        if ids != case["ids"]:
            complaints.append(f"tokenizer: {case['text']!r} gives {ids}, expected {case['ids']}")
    for case in cases["decode"]:
        text = tokenizer.decode(case["ids"], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if text != case["text"]:
            complaints.append(f"tokenizer: {case['ids']} gives {text!r}, expected {case['text']!r}")
    return complaints


@torch.no_grad()
def summed_loss(model, ids, max_length):
    """Windows of `max_length` ids, each scored alone from its second id on: (scored ids, sum of natural-log losses)."""
    count, total = 0, 0.0
    for start in range(0, len(ids), max_length):
        window = torch.tensor(ids[start:start + max_length])
        if len(window) < 2:
            continue
        log_probabilities = model(input_ids=window[None], use_cache=False).logits[0, :-1].double().log_softmax(-1)
        total -= log_probabilities.gather(1, window[1:, None]).sum().item()
        count += len(window) - 1
    return count, total


def check_perplexity(arguments, model, tokenizer):
    with tempfile.TemporaryDirectory() as folder:
        file = arguments.text
        if file is None:
            file = pathlib.Path(folder) / "text.txt"
            file.write_bytes(TEXT.encode("utf-8"))
        ids = [tokenizer.bos_token_id] + ids_of(tokenizer, file.read_bytes().decode("utf-8"))
        count, total = summed_loss(model, ids, arguments.max_length)
        theirs = engine_json(arguments.engine, "eval", "perplexity", "--model-path", arguments.model_path, "--file", file,
                             "--max-length", arguments.max_length, "--json")
    complaints = []
    if theirs["tokens"] != count:
        complaints.append(f"perplexity: the engine scored {theirs['tokens']} tokens, Transformers {count}")
    error = abs(theirs["nll"] - total) / total
    if not error <= NLL_TOLERANCE:
        complaints.append(f"perplexity: the engine's nll is {theirs['nll']}, Transformers' {total}")
    return complaints, {"tokens": count, "nll_engine": theirs["nll"], "nll_transformers": total, "relative_error": error}


def first_of(record, *names):
    """The first of the fields that is there, also one level down."""
    for level in (record, *(value for value in record.values() if isinstance(value, dict))):
        for name in names:
            if name in level:
                return level[name]
    return None


def without_end(ids, end):
    return ids[:ids.index(end)] if end in ids else ids


@torch.no_grad()
def check_generation(arguments, model, tokenizer, prompt):
    """(complaints, number of equal tokens, whether it left at a near tie)."""
    answer = engine_json(arguments.engine, "prompt", "--raw", "--model-path", arguments.model_path, "--prompt", prompt,
                         "--temperature", 0, "--repetition-penalty", 1.0, "--max-new-tokens", arguments.max_new_tokens,
                         "--json")
    end = tokenizer.eos_token_id
    ids = [tokenizer.bos_token_id] + ids_of(tokenizer, prompt)
    said = first_of(answer, "prompt_token_ids", "prompt_ids")
    if said is not None and said != ids:
        return [f"prompt {prompt!r}: the engine fed {said}, expected {ids}"], 0, False
    out = model.generate(torch.tensor([ids]), generation_config=GenerationConfig(
        do_sample=False, max_new_tokens=arguments.max_new_tokens, eos_token_id=end, bos_token_id=end, pad_token_id=end,
        output_scores=True, return_dict_in_generate=True))
    expected = without_end(out.sequences[0, len(ids):].tolist(), end)
    theirs, text = first_of(answer, "token_ids", "tokens"), first_of(answer, "text")
    complaints = []
    if isinstance(theirs, list):
        theirs = without_end(theirs, end)
        same = next((i for i, (a, b) in enumerate(zip(theirs, expected)) if a != b), min(len(theirs), len(expected)))
        if theirs != expected:
            margin = (lambda best: (best[0] - best[1]).item())(out.scores[same][0].topk(2).values) \
                if same < len(out.scores) else float("inf")
            if margin < NEAR_TIE:
                return [], same, True
            complaints.append(f"prompt {prompt!r}: after {same} equal tokens the engine says {theirs[same:same + 5]}, "
                              f"Transformers {expected[same:same + 5]} (won by {margin:.2e})")
        expected = theirs  # the text must be that of the engine's own tokens
    else:
        same = len(expected)
    decoded = tokenizer.decode(expected, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    # Values of a city are filled in where the model wrote a placeholder, so such a text can't be compared.
    if text is not None and "{" not in decoded and text.strip() != decoded.strip():
        complaints.append(f"prompt {prompt!r}: the engine's text is {text!r}, expected {decoded!r}")
    if theirs is None and text is None:
        complaints.append(f"prompt {prompt!r}: neither `token_ids` nor `text` in {sorted(answer)}")
    return complaints, same, False


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-path", type=pathlib.Path, required=True)
    parser.add_argument("--engine", required=True, help="the muni-engine binary")
    parser.add_argument("--text", type=pathlib.Path, help="UTF-8 file to score (default: a German sample)")
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--prompt", action="append", help="instead of the built-in prompts; can be given repeatedly")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    torch.set_num_threads(2)
    model, tokenizer, complaints = load(arguments.model_path)
    cases = json.loads((REPOSITORY / "tests/fixtures/tokenizer.json").read_text(encoding="utf-8"))
    complaints += check_tokenizer(tokenizer, cases)
    more, perplexity = check_perplexity(arguments, model, tokenizer)
    complaints += more
    equal_tokens, near_ties = [], 0
    for prompt in arguments.prompt or PROMPTS:
        more, same, tie = check_generation(arguments, model, tokenizer, prompt.replace("\\n", "\n"))
        complaints += more
        equal_tokens.append(same)
        near_ties += tie
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    print(json.dumps({"ok": not complaints, "differences": len(complaints), "perplexity": perplexity,
                      "greedy_equal_tokens": equal_tokens, "greedy_near_ties": near_ties}))
    sys.exit(bool(complaints))


if __name__ == "__main__":
    main()
