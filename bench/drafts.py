"""What verified drafts save, and what they cost while nothing is drafted.

A call that a grammar allows in one form only is generated token by token, and then verified from a
draft, in turn, by the same engine. Then engines with and without drafts, one after the other,
decode plain text, which has no drafts.
"""

from __future__ import annotations

import argparse
import statistics

from bench import served
from bench.process import started
from bench.report import AtLeast, AtMost, Report

FASTER = "a call: generated / verified"

SIZES = {
    "cpu": {
        "rounds": 5,
        "trials": 5,
        "tokens": 64,
        "sequences": "1,8,32",
        "max_num_seqs": 32,
        "max_model_len": 4096,
    },
    "gpu": {
        "rounds": 3,
        "trials": 5,
        "tokens": 256,
        "sequences": "1,8,32",
        "max_num_seqs": 64,
        "max_model_len": 8192,
    },
    "quick": {
        "rounds": 1,
        "trials": 1,
        "tokens": 8,
        "sequences": "1,2",
        "max_num_seqs": 16,
        "max_model_len": 2048,
    },
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this bench."""
    served.add_arguments(parser)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--trials", type=int, help="calls of each kind, and decodings, in a round")
    parser.add_argument("--tokens", type=int, help="tokens of each sequence")
    parser.add_argument("--sequences", help="numbers of sequences at once")


async def run(options: argparse.Namespace, report: Report) -> None:
    """Runs the bench and adds its samples to the report."""
    vllm = {name: getattr(options, name) for name in ("max_num_seqs", "max_model_len")}
    config = {"model": options.model, "device": options.device, "vllm": vllm}
    sequences = [int(text) for text in options.sequences.split(",")]
    for number in range(report.count("a call, verified"), options.rounds):
        for drafts in (False, True) if number % 2 else (True, False):
            arm = "with drafts" if drafts else "without"
            async with started("bench.arms.drafting", {**config, "drafts": drafts}) as child:
                for count in sequences:
                    found = [
                        float(str(answer["tokens_per_s"]))
                        for _ in range(options.trials + 1)
                        for answer in [
                            await child.ask("decode", sequences=count, tokens=options.tokens)
                        ]
                    ]
                    speed = statistics.median(found[1:])  # the first caches the prompts
                    report.add(f"{count} at once, {arm}", speed, unit="tokens/s")
                for drafted in (False, True) if drafts else ():
                    name = f"a call, {'verified' if drafted else 'generated'}"
                    await child.ask("call", drafted=drafted)  # caches the prompt
                    answers = [
                        await child.ask("call", drafted=drafted) for _ in range(options.trials)
                    ]
                    seconds = statistics.median(float(str(each["seconds"])) for each in answers)
                    report.add(name, 1e3 * seconds, unit="ms")
                    report.add("tokens of the call", float(str(answers[0]["tokens"])))
        report.ratio(FASTER, "a call, generated", "a call, verified")
        report.judge(FASTER, AtLeast(12 if options.sizes == "gpu" else 8))
        for count in sequences:
            ratio = f"{count} at once: without / with drafts"
            report.ratio(ratio, f"{count} at once, without", f"{count} at once, with drafts")
            report.judge(ratio, AtMost(1.01))
        report.round_ended()
        print(f"round {number + 1} of {options.rounds} ended")
