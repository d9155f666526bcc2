#!/usr/bin/env python3
# The router's bench rows beside torch's way from the same kind of logits to the same result, in turns, one thread each.
# SPDX-License-Identifier: Apache-2.0
"""usage: beside_torch.py PROGRAM [REPETITIONS]      needs torch; prints nanoseconds a token and their ratio"""
import json
import subprocess
import sys
import time

TOKENS = (1, 64, 4096)


def softmax_8of128(logits, _):
    weights, ids = logits.softmax(-1).topk(8, -1)
    return ids, weights / weights.sum(-1, keepdim=True)


def sigmoid_groups_8of256(logits, bias):
    """DeepSeek-V3: the best 4 of 8 groups by the sum of their two best, then the best 8 experts."""
    scores = logits.sigmoid()
    choice = (scores + bias).view(-1, 8, 32)
    best = choice.topk(2, -1)[0].sum(-1).topk(4, -1, sorted=False)[1]
    closed = choice.new_ones(choice.shape[:2], dtype=bool).scatter_(1, best, False)
    ids = choice.masked_fill(closed[..., None], float("-inf")).view(-1, 256).topk(8, -1)[1]
    weights = scores.gather(1, ids)
    return ids, weights / (weights.sum(-1, keepdim=True) + 1e-20) * 2.5


def plan(ids, experts):
    """Tokens by expert, in their order, and where each expert's run ends."""
    flat = ids.flatten()
    return flat.argsort(stable=True) // ids.shape[1], flat.bincount(minlength=experts).cumsum(0)


def of_torch(torch, rule, experts, tokens):
    batches = [torch.randn(tokens, experts) for _ in range(4)]
    bias = torch.full((experts,), 0.01)
    calls = max(2, 2048 // tokens)
    start = time.perf_counter()
    for i in range(calls):
        plan(rule(batches[i % 4], bias)[0], experts)
    return (time.perf_counter() - start) / calls / tokens * 1e9


def of_program(program):
    options = ["--benchmark_filter=^route_and_plan/", "--benchmark_format=json", "--benchmark_min_time=0.1"]
    rows = json.loads(subprocess.run([program, *options], check=True, capture_output=True, text=True).stdout)["benchmarks"]
    return {row["name"]: row["s/token"] * 1e9 for row in rows}


def main(program, repetitions=5):
    import torch
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    ours, theirs = {}, {}
    for _ in range(int(repetitions)):
        for name, nanoseconds in of_program(program).items():
            ours[name] = min(nanoseconds, ours.get(name, nanoseconds))
        for rule, experts in ((softmax_8of128, 128), (sigmoid_groups_8of256, 256)):
            for tokens in TOKENS:
                name = f"route_and_plan/fp32/{rule.__name__}/{tokens}"
                nanoseconds = of_torch(torch, rule, experts, tokens)
                theirs[name] = min(nanoseconds, theirs.get(name, nanoseconds))
    print(f"{'row':56} {'ns/token':>9} {'torch':>9} {'ratio':>6}")
    for name, nanoseconds in ours.items():
        beside = f"{theirs[name]:9.0f} {theirs[name] / nanoseconds:5.1f}x" if name in theirs else ""
        print(f"{name:56} {nanoseconds:9.0f} {beside}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
