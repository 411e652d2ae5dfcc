"""Generation by servers that speak OpenAI's completions protocol, such as `vllm serve`: one, or many nodes.

Every response is one request with its own seed; prompts travel as token ids and responses come back as token ids, so
no text is tokenised twice. Shards are dealt to the servers that serve the policy; a server that is lost leaves its
shard to the others.
"""

from __future__ import annotations

import os
import re
import time
import warnings
from concurrent.futures import ThreadPoolExecutor, as_completed

from rlhf_kit import openai_client
from rlhf_kit.engines.shards import Batch, Lost
from rlhf_kit.errors import KitError

WAIT = "RLHF_KIT_SERVER_WAIT"
IN_FLIGHT = 128  # requests a server has at once from one lane
LANES = 2  # shards a server works on at once: while one runs out, the other keeps it busy


class Server:
    """One server. `draw` raises `Lost` when it answers no more, KitError when it refuses a request for good."""

    def __init__(self, url: str):
        self.client = openai_client.Client(url, key_env=openai_client.KEY, connections=LANES * IN_FLIGHT + 1)
        self.url = self.name = self.client.url
        self.model, self.longest = "", None

    def served(self) -> list[dict]:
        """The models it serves, as `/v1/models` tells. Lost when it does not answer, KitError when it refuses."""
        try:
            return self.client.models()
        except openai_client.Silent as reason:
            raise Lost(str(reason)) from None

    def draw(self, batch: Batch) -> list[tuple[list[int], float, str]]:
        """[(token ids, log-probability, finish reason)] in the order of `batch.prompts`."""
        drawn = [None] * len(batch.prompts)
        with ThreadPoolExecutor(min(IN_FLIGHT, len(drawn))) as pool:
            asked = {
                pool.submit(self._complete, batch, ids, seed): i
                for i, (ids, seed) in enumerate(zip(batch.prompts, batch.seeds, strict=True))
            }
            try:
                for one in as_completed(asked):
                    drawn[asked[one]] = one.result()
            except BaseException:
                self.client.gone.set()  # the others of this batch need not try on
                pool.shutdown(cancel_futures=True)
                raise
        return drawn

    def _complete(self, batch: Batch, ids, seed: int) -> tuple[list[int], float, str]:
        asked = {
            "model": self.model, "prompt": list(ids), "seed": seed, "n": 1, "max_tokens": batch.max_new_tokens,
            "temperature": batch.temperature, "top_p": batch.top_p, "stream": False, "logprobs": 1,
            # Whatever else a server would fill from the model's generation_config.json.
            "top_k": -1, "min_p": 0.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "repetition_penalty": 1.0,
            "min_tokens": 0, "stop_token_ids": batch.stop, "ignore_eos": True,
            "return_token_ids": True, "return_tokens_as_token_ids": True,
        }
        try:
            return self.client.post("completions", asked, lambda reply: self._read(reply, ids))
        except openai_client.Silent as reason:
            raise Lost(str(reason)) from None

    def _read(self, reply: dict, ids) -> tuple[list[int], float, str]:
        try:
            choice = reply["choices"][0]
            logprobs = choice["logprobs"]
            token_ids, values = _token_ids(choice), logprobs["token_logprobs"]
            if choice.get("prompt_token_ids") not in (None, list(ids)):
                raise KitError(f"the server {self.url} changed a prompt's tokens; it must not truncate or add any")
            if len(values) != len(token_ids):
                raise KitError(
                    f"the server {self.url} gave {len(token_ids)} tokens and {len(values)} log-probabilities"
                )
            return token_ids, float(sum(values)), str(choice["finish_reason"])
        except (KeyError, IndexError, TypeError):
            raise KitError(
                f"the server {self.url} returned no token ids with log-probabilities; the kit never tokenises a "
                f"response's text again, so take a server that has vLLM's return_token_ids (vLLM 0.11 or newer)"
            ) from None

    def processed(self, prompt, stop: list[int]) -> bool:
        """True if its log-probabilities are taken after temperature and top-p, False if before.

        With top_p next to nothing one token alone is left: its log-probability is 0 after, and below 0 before.
        """
        batch = Batch([prompt], [1], 2.0, 1e-6, 16, stop)
        return abs(self._complete(batch, prompt, 1)[1]) < 1e-3

    def close(self) -> None:
        self.client.close()


def _token_ids(choice: dict) -> list[int]:
    """The response's token ids, as vLLM gives them: in a field of their own, or as `token_id:<id>` strings."""
    if choice.get("token_ids") is not None:
        return [int(i) for i in choice["token_ids"]]
    found = [re.fullmatch(r"token_id:(\d+)", token) for token in choice["logprobs"]["tokens"]]
    if not all(found):
        raise KeyError("token_ids")
    return [int(match[1]) for match in found]


class Servers:
    """The servers that serve one policy; made by `open_servers`."""

    def __init__(self, servers: list[Server], tokenizer, max_length: int | None, policy: object = None):
        self.servers, self.tokenizer, self.max_length, self.policy = servers, tokenizer, max_length, policy

    def lanes(self):
        return [(server.name, server.draw) for server in self.servers for _ in range(LANES)]

    def close(self) -> None:
        for server in self.servers:
            server.close()

    def check_logprobs(self, temperature: float, top_p: float, prompt, stop: list[int]) -> None:
        """KitError if a server would give log-probabilities of another distribution than the one sampled from."""
        if temperature in (0.0, 1.0) and top_p == 1:
            return  # both kinds are the same number
        for server in self.servers:
            try:
                fine = server.processed(prompt, stop)
            except Lost:
                continue  # found out again, and told, when shards are dealt
            if not fine:
                raise KitError(
                    f"the server {server.url} gives log-probabilities before temperature and top_p; start it with "
                    "--logprobs-mode processed_logprobs, or sample at temperature 1 and top_p 1"
                )


def open_servers(policy_path, machine) -> Servers:
    """The servers of `machine.servers` that serve this policy; the caller closes them.

    A server serves a policy when `/v1/models` lists its folder (or hub id) as a model's `id` or `root`, as
    `vllm serve FOLDER` does. Servers that do not answer or serve something else are left out with a warning; with
    none left it is looked again for RLHF_KIT_SERVER_WAIT seconds (time to load the next policy), then KitError.
    """
    if isinstance(policy_path, tuple):
        raise KitError("the server backend needs the policy's folder, by which servers name it, not a loaded model")
    if not machine.servers:
        raise KitError("the sampling backend is server, and no server is named; set sampling.server or RLHF_KIT_SERVER")
    from rlhf_kit.models import load_tokenizer, resolve_model

    where, tokenizer = resolve_model(policy_path), load_tokenizer(policy_path)
    names = {where, str(policy_path)}
    patience = os.environ.get(WAIT) or "0"
    if not patience.isdigit():
        raise KitError(f"{WAIT} is {patience!r}; it must be a whole number of seconds")
    until = time.monotonic() + int(patience)
    while True:
        found, problems = [], []
        for url in machine.servers:
            server = Server(url)
            try:
                models = server.served()
            except Lost as reason:
                problems.append(f"{server.url}: {reason}")
                server.close()
                continue
            except BaseException:
                server.close()
                raise
            match = next((m for m in models if {m.get("id"), m.get("root")} & names), None)
            if match is None:
                serves = ", ".join(str(m.get("id")) for m in models) or "nothing"
                problems.append(f"{server.url}: it serves {serves}")
                server.close()
                continue
            server.model, server.longest = str(match["id"]), match.get("max_model_len")
            found.append(server)
        if found:
            for problem in problems:
                warnings.warn(f"a sampling server is left out: {problem}", stacklevel=2)
            known = [s.longest for s in found if s.longest]
            return Servers(found, tokenizer, min(known) if known else None, policy_path)
        if time.monotonic() >= until:
            raise KitError(
                f"no server serves the policy {where} ({'; '.join(problems)}); start one with `vllm serve {where} "
                f"--generation-config vllm --logprobs-mode processed_logprobs`, then start this again, or let it "
                f"wait with {WAIT}=600"
            )
        time.sleep(min(5.0, max(0.1, until - time.monotonic())))
