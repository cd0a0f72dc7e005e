"""LoRA beside PyTorch and PEFT: the same shape, rank, sequence and optimizer, in turns on the same processor.

    python3 bench/tune/compare.py --puna target/release/puna --work /tmp/tune --turns 3

Needs torch, transformers and peft. Writes random models of the shape llama-3.2-1b into WORK (Q8_0 for puna, which trains
over what it serves; PyTorch makes its own in f32 or bf16), then prints a line of JSON for each turn and the medians: tokens
a second (the first step is left out) and peak memory of the whole process.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

LENGTH = 512
RANK = 16
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SHAPE = dict(
    vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
    num_key_value_heads=8, head_dim=64, max_position_embeddings=131072, rms_norm_eps=1e-5, rope_theta=500000.0,
    tie_word_embeddings=True, attention_bias=False, mlp_bias=False,
    rope_scaling=dict(rope_type="llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
                      original_max_position_embeddings=8192),
)


def torch_turn(dtype, threads, steps):
    """One turn of PyTorch, in a process of its own."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_num_threads(threads)
    torch.set_default_dtype(getattr(torch, dtype))
    model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    torch.set_default_dtype(torch.float32)
    config = LoraConfig(r=RANK, lora_alpha=32, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, weight_decay=0.0)
    ids = torch.randint(0, 128000, (1, LENGTH))
    seconds = []
    for _ in range(steps):
        begin = time.monotonic()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.monotonic() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(dict(tokens_per_second=LENGTH / statistics.median(seconds[1:]), peak_bytes=peak)))


def puna_turn(puna, work, threads, steps, turn):
    """One turn of puna."""
    out = os.path.join(work, f"run-{os.getpid()}-{turn}")
    job = ["-m", os.path.join(work, "q8_0.gguf"), "-d", os.path.join(work, "text.txt"), "--threads", str(threads)]
    for setting in [f"length={LENGTH}", "batch=1", f"steps={steps}", f"rank={RANK}", "valid=0", "eval_every=1000"]:
        job += ["--set", setting]
    plan = json.loads(subprocess.run([puna, "tune", "plan", *job, "--json"], check=True, capture_output=True).stdout)
    process = subprocess.Popen([puna, "tune", "run", *job, "-o", out], stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, status
    with open(os.path.join(out, "log.jsonl")) as log:
        records = [json.loads(line) for line in log]
    rates = [r["tokens"] / r["seconds"] for r in records if r["event"] == "step"][1:]
    return dict(tokens_per_second=statistics.median(rates), peak_bytes=usage.ru_maxrss * 1024, planned_bytes=plan["bytes"],
                planned_tokens_per_second=plan["tokens_per_second"])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--puna", default="target/release/puna")
    parser.add_argument("--work", default="/tmp/puna-tune")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--dtypes", default="float32,bfloat16", help="bases of PyTorch, each in every turn")
    parser.add_argument("--torch", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.torch:
        return torch_turn(args.torch, args.threads, args.steps)
    os.makedirs(args.work, exist_ok=True)
    model = os.path.join(args.work, "q8_0.gguf")
    if not os.path.exists(model):
        subprocess.run([args.puna, "synth", "llama-3.2-1b", "--format", "Q8_0", "-o", model], check=True)
    with open(os.path.join(args.work, "text.txt"), "w") as text:
        text.write("the llama walks over the high grass and looks at the far white hills " * 400)
    found = {}
    for turn in range(args.turns):
        for who in ["puna", *args.dtypes.split(",")]:
            if who == "puna":
                result = puna_turn(args.puna, args.work, args.threads, args.steps, turn)
            else:
                command = [sys.executable, __file__, "--torch", who, "--threads", str(args.threads), "--steps", str(args.steps)]
                result = json.loads(subprocess.run(command, check=True, capture_output=True).stdout.splitlines()[-1])
            found.setdefault(who, []).append(result)
            print(json.dumps(dict(turn=turn, who=who, **result)), flush=True)
    medians = {who: {key: statistics.median(r[key] for r in results) for key in results[0]} for who, results in found.items()}
    print(json.dumps(dict(threads=args.threads, length=LENGTH, rank=RANK, medians=medians)))


main()
