"""What no single field of a profile can tell: values that do not go together, each refused in one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlhf_kit.errors import KitError
from rlhf_kit.openai_client import named_servers

if TYPE_CHECKING:
    from rlhf_kit.profiles import Profile

SMOOTHED = ("sigmoid", "robust", "exo_pair", "aot", "aot_unpaired")  # losses that know label smoothing


def adapter_given(values: dict, overrides: dict[str, Any], where: str) -> None:
    """KitError for an adapter's detail where all weights are trained: it would turn LoRA on unasked."""
    details = [key for key in overrides if key.startswith("model.lora.")]
    full = not (values.get("model") or {}).get("lora")
    if details and full and not {"model.lora", "model.lora.r"} & set(overrides):
        raise KitError(
            f"{where}: {details[0]} needs an adapter, and model.lora is null (all weights are trained); "
            f"set model.lora.r and model.lora.alpha as well"
        )


def together(profile: Profile, where: str) -> None:
    """KitError for what no single field can tell: fields that do not go together, in one sentence that names them."""
    _launch(profile, where)
    if profile.sampling.temperature == 0:
        raise KitError(
            f"{where}: sampling.temperature is 0, so all {profile.sampling.n} responses to a prompt (sampling.n) "
            f"would be the same and make no pair"
        )
    if profile.dpo.label_smoothing and profile.dpo.loss not in SMOOTHED:
        raise KitError(
            f"{where}: dpo.label_smoothing {profile.dpo.label_smoothing} does nothing under dpo.loss "
            f"{profile.dpo.loss}; it is known to {', '.join(SMOOTHED)}"
        )
    if profile.data.kind == "file":
        missing = [
            k
            for k, v in (("model.path", profile.model.path), ("data.preferences", profile.data.preferences))
            if not v
        ]
        if missing:
            sets = " ".join(f"--set {k}=..." for k in missing)
            raise KitError(
                f"{where}: {' and '.join(missing)} must be given: your model and your preference file "
                f"({sets}, or a YAML file of yours with `extends: byo`)"
            )
    if not profile.model.path and not profile.model.init:
        raise KitError(
            f"{where}: model.path and model.init are both empty; give a checkpoint or a new model's sizes"
        )
    if profile.model.path and profile.model.init:
        raise KitError(f"{where}: model.path and model.init exclude each other; set one of them to null")
    if profile.model.init and profile.model.init.hidden_size % profile.model.init.heads:
        raise KitError(f"{where}: model.init.hidden_size must be a multiple of model.init.heads")
    if profile.sampling.max_new_tokens >= profile.model.max_length:
        raise KitError(
            f"{where}: sampling.max_new_tokens ({profile.sampling.max_new_tokens}) must be smaller than "
            f"model.max_length ({profile.model.max_length})"
        )


def _launch(profile: Profile, where: str) -> None:
    """Processes, shares of the model, batches and engines that do not go together."""
    launch, lora, sampling = profile.launch, profile.model.lora, profile.sampling
    if launch.processes == 1 and launch.strategy != "none":
        raise KitError(
            f"{where}: launch.strategy {launch.strategy} divides work over processes, and launch.processes is 1; "
            f"set launch.strategy to none, or launch.processes to the number of GPUs"
        )
    if launch.processes > 1 and launch.strategy == "none":
        raise KitError(
            f"{where}: launch.processes is {launch.processes} and launch.strategy is none; "
            f"say ddp, fsdp2, zero2 or zero3"
        )
    if lora and lora.quantization != "none" and launch.strategy in ("fsdp2", "zero2", "zero3"):
        raise KitError(
            f"{where}: model.lora.quantization {lora.quantization} and launch.strategy {launch.strategy}: 4-bit "
            f"weights are not divided over processes here; take ddp"
        )
    if sampling.server and sampling.backend not in ("auto", "server"):
        raise KitError(
            f"{where}: sampling.server and sampling.backend {sampling.backend} exclude each other; "
            f"set sampling.backend to auto to use the servers"
        )
    if sampling.server is not None and not sampling.server:
        raise KitError(f"{where}: sampling.server is empty; give addresses, or null")
    if sampling.server:
        try:
            named_servers(sampling.server)  # now: an address with a password or a key must not get into a plan or a manifest
        except KitError as error:
            raise KitError(f"{where}: sampling.server: {error}") from None
    for name in ("sft", "reward", "pairwise", "dpo"):
        section = getattr(profile, name)
        micro = section.micro_batch_size or 1
        if section.batch_size % (micro * launch.processes):
            micros = f"{name}.micro_batch_size {micro} x " if section.micro_batch_size else ""
            raise KitError(
                f"{where}: {name}.batch_size {section.batch_size} is not a multiple of {micros}"
                f"launch.processes {launch.processes}"
            )
        if section.packing and name in ("reward", "dpo"):
            raise KitError(f"{where}: {name}.packing cannot be true: a pair's two sides must stay apart")
        if (section.max_length or 0) > profile.model.max_length:
            raise KitError(
                f"{where}: {name}.max_length ({section.max_length}) is larger than model.max_length "
                f"({profile.model.max_length})"
            )
