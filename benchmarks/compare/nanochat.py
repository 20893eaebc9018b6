"""nanochat's own engine on this machine's GPU: random weights in the shapes of nanochat's depths, PyTorch, and SDPA where
its FlashAttention 3 cannot be had. Times as scripts/infer_bench.py does: one step is one next() of Engine.generate().

    python3 benchmarks/compare/nanochat.py NANOCHAT_CHECKOUT [depths] [batches] [context] [prompt] [decode tokens]

A table as it goes, one JSON line last. "bf16" beside "stored" (float32 matrices cast in every pass, as training leaves
them): the matrices cast once.
"""
import json
import sys
import time
import types

try:
    import rustbpe  # noqa: F401  nanochat's tokenizer imports it; nothing here encodes text
except ImportError:
    sys.modules["rustbpe"] = types.ModuleType("rustbpe")

import torch

sys.path.insert(0, sys.argv[1])
from nanochat.engine import Engine  # noqa: E402
from nanochat.flash_attention import USE_FA3  # noqa: E402
from nanochat.gpt import GPT, GPTConfig  # noqa: E402


class NoSpecials:
    """Ids that are never drawn, so that no row ends early."""

    def encode_special(self, text):
        return -1

    def get_bos_token_id(self):
        return -1


def numbers(position, fallback):
    return [int(item) for item in (sys.argv[position] if len(sys.argv) > position else fallback).split(",")]


def median(values):
    return sorted(values)[len(values) // 2]


def steps(engine, prompt, batch, count):
    """Seconds to the first column, then of each step."""
    generator = engine.generate(prompt, num_samples=batch, max_tokens=count, temperature=1.0)
    times = []
    for _ in range(count):
        start = time.perf_counter()
        next(generator)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return times


depths, batches = numbers(2, "12,20,26,32"), numbers(3, "1,8,32,128")
context, prompt_length, decode_tokens = numbers(4, "1024")[0], numbers(5, "2048")[0], numbers(6, "32")[0]
attention = "FlashAttention 3" if USE_FA3 else "SDPA"
print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, {attention}")
rows = []
for depth in depths:
    config = GPTConfig(n_layer=depth, n_embd=64 * depth, n_head=depth // 2, n_kv_head=depth // 2)
    with torch.device("meta"):
        model = GPT(config)
    model.to_empty(device="cuda")
    model.init_weights()
    model.eval()
    engine = Engine(model, NoSpecials())
    for weights in ("stored", "bf16"):
        if weights == "bf16":
            model.to(torch.bfloat16)
        for batch in batches:
            prompt = [i * 37 % 251 for i in range(context - decode_tokens // 2)]
            steps(engine, prompt, batch, 4)
            ms = 1e3 * median(steps(engine, prompt, batch, decode_tokens)[1:])
            print(f"d{depth:<3} {weights:<6} decode  batch {batch:<4} context {context:<5} {ms:9.3f} ms/step {1e3 * batch / ms:11.0f} tok/s", flush=True)
            rows.append(dict(depth=depth, weights=weights, what="decode", batch=batch, context=context, ms=round(ms, 5)))
        prompt = [i * 37 % 251 for i in range(prompt_length)]
        steps(engine, prompt, 1, 1)
        ms = 1e3 * median([steps(engine, prompt, 1, 1)[0] for _ in range(5)])
        print(f"d{depth:<3} {weights:<6} prefill {prompt_length:<5} {ms:29.3f} ms {1e3 * prompt_length / ms:17.0f} tok/s", flush=True)
        rows.append(dict(depth=depth, weights=weights, what="prefill", tokens=prompt_length, ms=round(ms, 5)))
    del engine, model
    torch.cuda.empty_cache()
print(json.dumps(dict(device=torch.cuda.get_device_name(), torch=torch.__version__, attention=attention, rows=rows)))
