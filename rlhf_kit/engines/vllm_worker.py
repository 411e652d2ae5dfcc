"""vLLM's offline engine in a process of its own: `python -m rlhf_kit.engines.vllm_worker`, started by `sampling_vllm`.

One JSON line in, one out. The first line holds the arguments of `vllm.LLM`; each further line is a batch
{prompts, seeds, temperature, top_p, max_new_tokens, stop}, answered by {"drawn": [[token_ids, logprob, reason]]}.
It ends when its input ends, so it never outlives the process that started it.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    # What vLLM and its libraries print goes to the log; the answers have the real standard output to themselves.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(value) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    settings = json.loads(sys.stdin.readline())
    try:
        import vllm

        engine = vllm.LLM(**settings)
        answer({"ready": vllm.__version__})
        for line in sys.stdin:
            answer({"drawn": draw(engine, vllm.SamplingParams, json.loads(line))})
        engine.llm_engine.engine_core.shutdown()  # ends the processes of tensor parallelism, if any
        os._exit(0)  # threads of its libraries would hold up an ordinary exit
    except Exception as error:  # the parent makes it a sentence; the trace is in the log
        lines = str(error).strip().splitlines()
        answer({"error": f"{type(error).__name__}: {lines[0] if lines else ''}"})
        raise


def draw(engine, SamplingParams, batch) -> list[tuple[list[int], float, str]]:
    """One request a response, each with its own seed; the engine batches them as it likes.

    `ignore_eos` with stop ids of ours (`chat.stop_ids`) makes these the only ends: other tokens that the model's files name
    are ordinary ones, as in the transformers backend. Every field that a generation_config.json could fill is set.
    """
    wanted = [
        SamplingParams(
            n=1, seed=seed, temperature=batch["temperature"], top_p=batch["top_p"], top_k=0, min_p=0.0,
            presence_penalty=0.0, frequency_penalty=0.0, repetition_penalty=1.0, min_tokens=0,
            max_tokens=batch["max_new_tokens"], ignore_eos=True, stop_token_ids=batch["stop"],
            logprobs=0, detokenize=False,
        )
        for seed in batch["seeds"]
    ]
    prompts = [{"prompt_token_ids": ids} for ids in batch["prompts"]]
    drawn = []
    for request in engine.generate(prompts, wanted, use_tqdm=False):
        made = request.outputs[0]
        drawn.append((list(made.token_ids), float(made.cumulative_logprob), str(made.finish_reason)))
    return drawn


if __name__ == "__main__":
    main()
