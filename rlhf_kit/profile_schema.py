"""Every key of a profile: its type, its range, its default. What keys say together is checked in `profile_checks`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_serializer

_LATER = {"later": True}


def _later(default: Any, **limits: Any) -> Any:
    """A field that came after results had been recorded; see `_Section`."""
    return Field(default, json_schema_extra=_LATER, **limits)


class _Section(BaseModel):
    """Keys of stages and of recorded results are hashes of dumped sections. A later field at its default changes
    nothing, so it stays out of dumps, and what was made before it came is still found."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_serializer(mode="wrap")
    def _dump(self, handler):
        values = handler(self)
        for name, field in type(self).model_fields.items():
            if field.json_schema_extra == _LATER and getattr(self, name) == field.default:
                values.pop(name, None)
        return values


class Init(_Section):
    """Sizes of a new model when there is no checkpoint to start from."""

    hidden_size: int = Field(64, gt=0)
    layers: int = Field(2, gt=0)
    heads: int = Field(4, gt=0)


class Lora(_Section):
    r: int = Field(16, gt=0)
    alpha: int = Field(32, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    target: str = "all-linear"
    quantization: Literal["none", "nf4"] = _later("none")  # nf4: the frozen weights in 4 bits (QLoRA)


class Model(_Section):
    """The base policy; `max_length` in tokens, prompt and response together; tokenizer null = the model's."""

    path: str | None = "data/pocket_base"
    init: Init | None = None
    tokenizer: str | None = None
    max_length: int = Field(192, gt=8)
    lora: Lora | None = None


class Annotator(_Section):
    """Dials of the pocket world's annotator; carelessness and position are probabilities."""

    temperature: float = Field(1.0, gt=0)
    verbosity: float = 0.0
    carelessness: float = Field(0.05, ge=0, le=1)
    position: float = Field(0.0, ge=-1, le=1)


class Data(_Section):
    """Where rows come from and how many: the pocket `world`, or a preference `file` (or hub data set)."""

    kind: Literal["world", "file"] = "world"
    preferences: str | None = None
    adapter: str = "auto"
    bad_rows: Literal["stop", "drop_unfit", "drop"] = "drop_unfit"  # see rlhf_kit.preferences.BAD_ROWS
    sft: str | None = None
    prompts: str | None = None
    sft_rows: int = Field(8000, gt=0)
    preference_pairs: int = Field(12000, gt=0)
    heldout_pairs: int = Field(600, gt=0)
    iterations: int = Field(3, gt=0, le=9)
    prompts_per_iteration: int = Field(800, gt=0)
    choose_prompts: int = Field(200, gt=0)
    eval_prompts: int = Field(400, gt=0)
    annotator: Annotator = Annotator()


class Training(_Section):
    """One trainer's settings; `batch_size` is global, in rows, `micro_batch_size` per device at once."""

    epochs: float = Field(1, gt=0)
    learning_rate: float = Field(1e-3, gt=0)
    batch_size: int = Field(32, gt=0)
    micro_batch_size: int | None = Field(None, gt=0)
    gradient_checkpointing: bool = False
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    max_grad_norm: float = Field(1.0, gt=0)
    max_length: int | None = Field(None, gt=8)  # tokens; null = model.max_length
    # what becomes of a row over max_length: left out and counted, or cut, keeping its end or its start
    truncation: Literal["drop", "keep_end", "keep_start"] = _later("drop")
    packing: bool = _later(False)  # several rows in one sequence of max_length tokens
    start: str | None = None  # the checkpoint that training starts from; null = the course's choice
    released: str | None = None  # a released model to use instead of training one


class Reward(Training):
    center_coefficient: float = Field(0.0, ge=0)


class Vllm(_Section):
    """Engines of the vllm backend: how much of each GPU one takes, over how many GPUs one model is split, how many."""

    gpu_memory: float = Field(0.9, gt=0, le=1)
    tensor_parallel: int = Field(1, gt=0)
    engines: int | None = Field(None, gt=0)  # null: as many as the GPUs hold, one on a CPU
    eager: bool = False  # no CUDA graphs: a faster start, slower sampling


class Sampling(_Section):
    n: int = Field(8, ge=2)  # one answer alone makes no pair
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_new_tokens: int = Field(80, gt=0)
    batch_size: int = Field(256, gt=0)
    backend: Literal["auto", "transformers", "vllm", "server"] = "auto"
    server: str | tuple[str, ...] | None = _later(None)  # one URL or several; with backend: server, RLHF_KIT_SERVER does too
    vllm: Vllm = _later(Vllm())


class Labeling(_Section):
    rule: Literal["max_min", "max_random", "max_max", "random"] = "max_min"
    length_penalty: float = Field(0.0, ge=0)  # reward per unit of length, paper eq. 9
    length_unit: Literal["chars", "words", "tokens"] = "chars"
    min_margin: float = Field(0.0, ge=0)
    max_pairs: int | None = Field(None, gt=0)  # keep the first so many pairs; null keeps all


class Dpo(Training):
    beta: float = Field(0.1, gt=0)
    loss: Literal[
        "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
        "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
    ] = "sigmoid"  # TRL's names
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    reference: Literal["sft", "previous"] = "sft"
    warm_start: bool = True


class Evaluation(_Section):
    samples: int = Field(1, ge=1)
    bootstrap: int = Field(1000, ge=10)
    best_of: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 2, 4, 8, 16, 32), min_length=1)
    best_of_prompts: int = Field(150, gt=0)


class Launch(_Section):
    """How training is started: processes (one a GPU), what they share of the model (see `accelerate launch`), and
    the card that the planner reckons with (`rlhf_kit.planning.memory.CARDS`)."""

    processes: int = Field(1, gt=0)
    strategy: Literal["none", "ddp", "fsdp2", "zero2", "zero3"] = "none"
    card: Literal["t4", "l4", "a100-40", "a100-80", "h100-80", "h200"] | None = None


class Profile(_Section):
    name: str
    requires_gpu: bool = False
    gpu_memory_gb: float | None = None  # what one device needs, for the doctor
    model: Model = Model()
    data: Data = Data()
    sft: Training = Training()
    reward: Reward = Reward()
    pairwise: Training = Training()
    sampling: Sampling = Sampling()
    labeling: Labeling = Labeling()
    dpo: Dpo = Dpo()
    evaluation: Evaluation = Evaluation()
    launch: Launch = _later(Launch())
