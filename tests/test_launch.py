"""Several processes: the same rows in the same steps, the same losses, failures shown, nothing lost."""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml

from rlhf_kit import models, training
from rlhf_kit.errors import KitError
from rlhf_kit.processes import launch, sharding
from rlhf_kit.runs import PROJECT, read_json, read_rows, write_json
from rlhf_kit.trainers.batches import LengthBatches, SharedBatches

LIMIT = 160

# ---------------------------------------------------------------- which rows a step sees


@pytest.mark.parametrize("rows", [64, 67, 71, 5])
@pytest.mark.parametrize("world", [2, 3, 4])
def test_global_batches_do_not_depend_on_the_number_of_processes(rows, world):
    """Dealt out by accelerate's own BatchSamplerShard, as in training."""
    from accelerate.data_loader import BatchSamplerShard

    lengths = [(i * 37) % 100 for i in range(rows)]
    micro, step = 2, 24
    alone = list(LengthBatches(lengths, step, seed=3))
    shares = []
    for rank in range(world):
        batches = SharedBatches(LengthBatches(lengths, step, seed=3), micro, world)
        shard = BatchSamplerShard(batches, num_processes=world, process_index=rank)
        shares.append(list(shard))
        assert len(shares[-1]) == len(shard) == len(batches) // world
    seen = [i for share in shares for batch in share for i in batch]
    left_over = rows % step % world
    assert len(seen) == len(set(seen)) == rows - left_over == rows - batches.left_over  # none twice
    each = step // micro // world
    for number in range(rows // step):
        step_rows = [i for share in shares for batch in share[number * each : (number + 1) * each] for i in batch]
        assert sorted(step_rows) == sorted(alone[number * step : (number + 1) * step])
    last = [[len(batch) for batch in share[rows // step * each :]] for share in shares]
    assert all(sizes == last[0] for sizes in last)  # collectives need the same shapes everywhere


def test_rows_that_cannot_be_shared_are_refused():
    with pytest.raises(KitError, match="3 rows cannot be shared by 4 processes"):
        SharedBatches(LengthBatches([1, 1, 1], 8, 0), 2, 4)
    with pytest.raises(KitError, match="batch_size 8 is not a multiple of micro_batch_size 3 x 2"):
        SharedBatches(LengthBatches([1] * 9, 8, 0), 3, 2)


def test_rows_of_a_short_micro_batch_weigh_no_more(tiny_folder, tiny_rows, machine, settings, tmp_path):
    """21 pairs, steps of 8 as 3 micro batches of 3, 3, 2 would be; here 5 rows as 4 + 1 against 5 at once."""
    settings.batch_size, settings.learning_rate = 8, 1e-2
    whole = training.train_reward(tiny_folder, tiny_rows.pairs[:13], tmp_path / "a", settings, machine, 0, LIMIT)
    settings.micro_batch_size = 4
    parts = training.train_reward(tiny_folder, tiny_rows.pairs[:13], tmp_path / "b", settings, machine, 0, LIMIT)
    assert [r["loss"] for r in parts.history] == pytest.approx([r["loss"] for r in whole.history], abs=1e-5)
    assert parts.facts["probe_scores"] == pytest.approx(whole.facts["probe_scores"], abs=1e-4)


# ---------------------------------------------------------------- two processes on a CPU


@pytest.fixture(scope="module")
def two(tiny_folder, tiny_rows, machine, tmp_path_factory):
    """All trainings with one process and with two; 26 rows in steps of 8, so the last batch is short."""
    base = tmp_path_factory.mktemp("two")
    common = dict(warmup_ratio=0.03, weight_decay=0.0, schedule="cosine", max_grad_norm=1.0, beta=0.1)
    section = SimpleNamespace(epochs=2, learning_rate=3e-3, batch_size=8, save_steps=3, **common)
    pairs = [*tiny_rows.pairs, *tiny_rows.pairs[:2]]
    sft_rows = [*tiny_rows.sft, *tiny_rows.sft[:2]]
    kinds = {
        "train_sft": ([tiny_folder], sft_rows),
        "train_reward": ([tiny_folder], pairs),
        "train_pairwise": ([tiny_folder], pairs[:12]),
        "train_dpo": ([tiny_folder, tiny_folder], pairs),
        "train_dpo lora": ([tiny_folder, tiny_folder], pairs),
    }
    more = {kind: {"lora": {"r": 4, "alpha": 8}} if "lora" in kind else {} for kind in kinds}
    one = {
        kind: getattr(training, kind.split()[0])(*paths, rows, base / "one" / kind, section, machine, 0, 400, **more[kind])
        for kind, (paths, rows) in kinds.items()
    }
    jobs = []
    for kind, (paths, rows) in kinds.items():
        names = ["policy_path", "reference_path"] if "dpo" in kind else ["model_path"]
        given = {
            **dict(zip(names, paths, strict=True)), "out": base / "two" / kind, "settings": section,
            "machine": machine, "seed": 0, "max_length": 400, **more[kind],
        }
        jobs.append(launch.write_job(base / "two" / f"{kind}.launch", kind.split()[0], given, rows, 2))
    lines, plain = [], launch.command
    patch = pytest.MonkeyPatch()
    # one start for all: what takes time is importing the libraries
    patch.setattr(launch, "command", lambda *a, **k: [*plain(*a, **k), *map(str, jobs[1:])])
    launch.run(jobs[0], 2, "ddp", machine, lines.append)
    patch.undo()
    return SimpleNamespace(base=base, one=one, lines=lines, pairs=pairs, jobs=dict(zip(kinds, jobs, strict=True)))


def _answer(two, call):
    return read_json(two.jobs[call].parent / "result.json")


@pytest.mark.parametrize("call", ["train_sft", "train_reward", "train_pairwise", "train_dpo", "train_dpo lora"])
def test_two_processes_give_the_loss_curve_of_one(two, call):
    alone, answer = two.one[call], _answer(two, call)
    losses = [row["loss"] for row in answer["history"]]
    assert losses == pytest.approx([row["loss"] for row in alone.history], abs=2e-5)
    assert losses[0] != losses[-1] and answer["facts"]["steps"] == alone.facts["steps"]
    assert answer["facts"]["ledger"] == alone.facts["ledger"]  # counted once
    assert answer["facts"]["processes"] == 2 and answer["facts"]["distributed"] == "MULTI_CPU"
    assert json.loads((two.base / "two" / call / "history.json").read_text()) == answer["history"]
    assert answer["facts"]["weights"] == models.weights_hash(two.base / "two" / call)
    assert not (two.base / "two" / call / "checkpoints").exists()


def test_two_processes_use_each_row_once(two):
    for call, steps in (("train_dpo", 8), ("train_pairwise", 4)):  # 3 steps of 8 rows, then 2; 8, then 4; two epochs
        facts, alone = _answer(two, call)["facts"], two.one[call].facts
        assert facts["rows_left_over_each_epoch"] == 0 and facts["steps"] == steps
        assert facts["tokens"] == alone["tokens"]  # counted over both processes; a row trained twice would show


def test_two_processes_keep_the_reference(two, tiny_folder):
    facts = launch.answer(two.jobs["train_dpo"].parent).facts
    assert facts["step_zero"]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    known = models.weights_hash(tiny_folder)
    assert facts["reference"]["before"] == facts["reference"]["after"] == facts["reference"]["stored"] == known


def test_the_log_is_handed_on_and_kept(two):
    kept = (two.jobs["train_sft"].parent / "log.txt").read_text()
    assert "127.0.0.1:0" in kept.splitlines()[0]  # a free port, chosen by the launcher
    assert any(line.startswith("step 1/8: loss ") for line in two.lines) and all(line in kept for line in two.lines)


# ---------------------------------------------------------------- FSDP2

# accelerate divides models among GPUs only; the processes here are told that their CPUs are fit for it too. Everything
# else is real: the values of the shipped file, the division of the weights, the gloo collectives.
DIVIDED = """
import os, sys
import yaml
import accelerate.state as state
from accelerate.utils import DistributedType
from rlhf_kit.runs import PROJECT

config = yaml.safe_load((PROJECT / "data" / "accelerate" / "fsdp2.yaml").read_text())
os.environ["ACCELERATE_USE_FSDP"] = "true"
for name, value in config["fsdp_config"].items():
    os.environ[name.upper()] = str(value).lower() if isinstance(value, bool) else str(value)
plain = state.AcceleratorState.__init__

def init(self, *args, fsdp_plugin=None, **named):
    plain(self, *args, fsdp_plugin=fsdp_plugin, **named)
    if fsdp_plugin is not None:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
        state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP

state.AcceleratorState.__init__ = init
from rlhf_kit.processes import worker
from rlhf_kit.trainers import common as training_common
from torch.distributed.tensor import DTensor

finish = training_common.close

def close(trainer, *rest):
    assert all(isinstance(p, DTensor) for p in trainer.model_wrapped.parameters())  # each process holds a part
    finish(trainer, *rest)

training_common.close = close
worker.main(*sys.argv[1:])
"""


def test_divided_weights_give_the_loss_curve_and_the_files_of_one_process(two, machine, tmp_path, monkeypatch):
    script, jobs = tmp_path / "divided.py", []
    script.write_text(DIVIDED)
    for kind in ("train_dpo", "train_reward", "train_dpo lora"):
        given = {**read_json(two.jobs[kind])["arguments"], "out": tmp_path / kind, "machine": machine}
        jobs.append(launch.write_job(tmp_path / f"{kind}.launch", kind.split()[0], given, two.pairs, 2))
    plain = launch.command
    monkeypatch.setattr(launch, "command", lambda *a, **k: [*plain(*a, **k)[:-3], str(script), *map(str, jobs)])
    launch.run(jobs[0], 2, "ddp", machine)
    for job in jobs:
        kind, done = job.parent.name.removesuffix(".launch"), launch.answer(job.parent)
        alone = two.one[kind]
        assert done.facts["distributed"] == "FSDP"
        assert [r["loss"] for r in done.history] == pytest.approx([r["loss"] for r in alone.history], abs=2e-5)
        load = models.load_reward_model if kind == "train_reward" else models.load_policy
        for mine, theirs in zip(load(done.path, machine)[0].parameters(), load(alone.path, machine)[0].parameters(), strict=True):
            assert mine.shape == theirs.shape and float((mine - theirs).detach().abs().max()) < 1e-4
        if kind != "train_reward":
            assert done.facts["step_zero"]["loss"] == pytest.approx(math.log(2), abs=1e-6)
            assert done.facts["reference"]["stored"] == alone.facts["reference"]["stored"]
    assert (tmp_path / "train_dpo lora" / "adapter" / "adapter_model.safetensors").is_file()


# ---------------------------------------------------------------- failures


def _dpo_job(folder, tiny_folder, tiny_rows, machine, settings, **changed):
    given = {
        "policy_path": tiny_folder, "reference_path": tiny_folder, "out": folder / "dpo", "settings": settings,
        "machine": machine, "seed": 0, "max_length": LIMIT, **changed,
    }
    return launch.write_job(folder / "dpo.launch", "train_dpo", given, tiny_rows.pairs, 2)


BREAKS = """
import os, sys
from transformers import TrainerCallback
from rlhf_kit.processes import worker
from rlhf_kit.trainers import dpo as training_dpo

plain = training_dpo.run_trainer

class Break(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 4:
            raise ValueError("the second process broke")

def run_trainer(trainer, lengths, progress, callbacks=()):
    return plain(trainer, lengths, progress, [*callbacks, Break()])

if os.environ["RANK"] == "1":
    training_dpo.run_trainer = run_trainer
worker.main(sys.argv[1])
"""


def test_a_failing_process_ends_the_others_is_shown_and_the_training_goes_on(two, tiny_folder, machine, tmp_path, monkeypatch):
    """Process 1 breaks at step 4 while process 0 waits for it in a collective; a second call goes on from step 3."""
    job, script = two.jobs["train_dpo"], tmp_path / "breaks.py"
    given, pairs = read_json(job)["arguments"], two.pairs
    script.write_text(BREAKS)
    plain = launch.command
    call = [tiny_folder, tiny_folder, pairs, tmp_path / "dpo", given["settings"], machine, 0, 400]
    with monkeypatch.context() as patch:
        patch.setattr(launch, "command", lambda job, *a, **k: [*plain(job, *a, **k)[:-3], str(script), str(job)])
        with pytest.raises(KitError, match="process 1 of 2: ValueError: the second process broke; the whole log is"):
            launch.train("train_dpo", *call, processes=2)
    assert not (tmp_path / "dpo" / "config.json").exists()
    assert "the second process broke" in (tmp_path / "dpo.launch" / "log.txt").read_text()
    assert [f.name for f in (tmp_path / "dpo" / "checkpoints").iterdir()] == ["checkpoint-3"]
    done = launch.train("train_dpo", *call, processes=2)
    straight = _answer(two, "train_dpo")
    assert done.facts["resumed_from"] == "checkpoint-3" and done.facts["steps"] == straight["facts"]["steps"] == 8
    assert [row["step"] for row in done.history] == list(range(1, 9))
    assert [row["loss"] for row in done.history] == pytest.approx([row["loss"] for row in straight["history"]], abs=1e-6)
    assert done.path == tmp_path / "dpo" and models.weights_hash(done.path) == done.facts["weights"]


def test_a_wrong_number_of_processes_is_refused(tiny_folder, tiny_rows, machine, settings, tmp_path):
    """`accelerate launch --cpu` starts one process and says nothing; the job knows how many it is for."""
    job = _dpo_job(tmp_path, tiny_folder, tiny_rows, machine, settings)
    env = {**os.environ, "PYTHONPATH": str(PROJECT)}
    env.pop("WORLD_SIZE", None)
    done = subprocess.run([sys.executable, "-m", "rlhf_kit.processes.worker", str(job)], env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert read_json(job.parent / "error-0.json")["message"] == "the job is for 2 processes and 1 were started"


def test_a_worker_ends_when_the_one_that_started_it_is_gone(tmp_path):
    script = "import time; from rlhf_kit.processes import worker; worker._follow([{0}, {1}]); print('on', flush=True); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    code = script.format(parent.pid, launch._started(parent.pid))
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(PROJECT)})
    assert child.stdout.readline() == b"on\n"
    parent.kill()
    parent.wait()
    assert child.wait(timeout=30) == 1


def test_an_interrupted_call_leaves_no_process(machine, tmp_path, monkeypatch):
    """The stand-in for a launcher has a worker in a session of its own that does not listen to SIGTERM."""
    import psutil

    worker = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    code = f"import subprocess, sys; w = subprocess.Popen([sys.executable, '-c', {worker!r}], start_new_session=True); print(w.pid, flush=True); w.wait()"
    monkeypatch.setattr(launch, "command", lambda *a, **k: [sys.executable, "-c", code])
    seen = []

    def tell(line):
        seen.append(line)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch.run(tmp_path / "job.json", 2, "ddp", machine, tell)
    pid = next(int(line) for line in seen if line.isdigit())
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_what_cannot_be_launched_is_said_in_a_sentence(machine, tmp_path, monkeypatch):
    job = tmp_path / "job.json"
    with pytest.raises(KitError, match="fsdp2 divides a model among GPUs; on a CPU only ddp"):
        launch.command(job, 2, "fsdp2", machine)
    with pytest.raises(KitError, match="launch.strategy is 'zero1'; it must be one of"):
        launch.command(job, 2, "zero1", machine)
    gpu = replace(machine, device="cuda", autocast_bf16=True)
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(KitError, match="zero3 needs deepspeed, which is not installed"):
        launch.command(job, 8, "zero3", gpu)
    monkeypatch.undo()
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(KitError, match=r"launch.processes is 8, but 1 GPU\(s\) can be used here"):
        launch.run(job, 8, "ddp", gpu)
    with pytest.raises(KitError, match="training in several processes takes none"):
        launch.train("train_sft", tmp_path, [], tmp_path / "x", {}, machine, 0, 9, processes=2, callbacks=[1])


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "zero2", "zero3"])
def test_shipped_accelerate_files_are_read_by_accelerate(strategy, machine, tmp_path, monkeypatch):
    """Through accelerate's own parser, as `accelerate launch` does it; the runs themselves need GPUs."""
    from accelerate.commands.config.config_args import load_config_from_file

    path = PROJECT / "data" / "accelerate" / f"{strategy}.yaml"
    config = load_config_from_file(str(path))
    wanted = {"ddp": "MULTI_GPU", "fsdp2": "FSDP"}.get(strategy, "DEEPSPEED")
    assert str(config.distributed_type.value) == wanted and config.num_machines == 1
    assert yaml.safe_load(path.read_text()).get("num_processes") is None  # given on the command line
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: True)
    line = launch.command(tmp_path / "job.json", 8, strategy, replace(machine, device="cuda", autocast_bf16=True))
    assert str(path) in line and "8" in line and line[line.index("--main_process_port") + 1] == "0"
    assert line[line.index("--mixed_precision") + 1] == "bf16"


def test_a_job_is_plain_json(tmp_path, machine, settings):
    from rlhf_kit.profiles import load_profile

    section = load_profile("laptop").dpo
    job = launch.write_job(
        tmp_path, "train_dpo", {"settings": section, "machine": machine, "lora": None, "out": tmp_path / "x"}, [{"a": 1}], 2,
        follow=True,
    )
    read = json.loads(job.read_text())
    assert read["arguments"]["settings"]["beta"] == 0.1 and read["arguments"]["machine"]["device"] == "cpu"
    assert read["parent"][0] == os.getpid()
    with pytest.raises(KitError, match="cannot be part of a content key; pass plain data"):
        launch.write_job(tmp_path, "train_dpo", {"settings": object()}, [{"a": 1}], 2)
    write_json(tmp_path / "error-0.json", {"rank": 0, "message": "old", "time": time.time()})
    launch.write_job(tmp_path, "train_dpo", copy.deepcopy(read["arguments"]), [{"a": 1}], 2)
    assert not (tmp_path / "error-0.json").exists()  # an earlier try's error is not taken for this one's


# ---------------------------------------------------------------- sampling and scoring


def test_prompts_are_dealt_out_whole_and_none_twice():
    groups = ["a", "a", "b", "c", "c", "c", "d"]
    assert sharding.deal(groups, 3) == [[0, 1, 6], [2], [3, 4, 5]]
    assert sharding.deal(["a"], 3) == [[0], [], []]
    many = [f"p{i % 17}" for i in range(60)]
    shares = sharding.deal(many, 4)
    assert sorted(i for share in shares for i in share) == list(range(60))
    assert all(len({k for k, share in enumerate(shares) if many.index(g) in share}) == 1 for g in set(many))


@pytest.fixture(scope="module")
def asked(tiny_rows):
    return [{"prompt_id": f"p{i}", "prompt": row["prompt"]} for i, row in enumerate(tiny_rows.pairs[:7])]


def test_two_processes_draw_the_samples_of_one(asked, tiny_folder, machine, tmp_path):
    from rlhf_kit import sampling

    how = dict(n=3, temperature=1.0, max_new_tokens=12, seed=5, iteration=2, batch_size=8, name="pi", machine=machine)
    alone = sampling.sample(tiny_folder, asked, **how)
    lines = []
    both = sharding.sample(tiny_folder, asked, processes=2, folder=tmp_path / "job", tell=lines.append, **how)
    assert len(both) == 21
    for a, b in zip(alone, both, strict=True):
        assert {**a, "logprob": 0} == {**b, "logprob": 0} and a["logprob"] == pytest.approx(b["logprob"], abs=1e-4)


def test_a_lost_or_doubled_sample_is_noticed(asked, tiny_folder, machine, tmp_path, monkeypatch):
    how = dict(n=1, processes=2, machine=machine, folder=tmp_path)
    row = {"prompt_id": "p0", "sample": 0}
    monkeypatch.setattr(sharding, "_run", lambda *a: [[row], []])
    with pytest.raises(KitError, match="1 samples came back for 7; the first missing one is .*p1"):
        sharding.sample(tiny_folder, asked, **how)
    monkeypatch.setattr(sharding, "_run", lambda *a: [[row], [dict(row)]])
    with pytest.raises(KitError, match="two processes answered prompt 'p0', sample 0"):
        sharding.sample(tiny_folder, asked, **how)
    monkeypatch.setattr(sharding, "_run", lambda *a: [[{"number": 0, "reward": 1.0}]])
    with pytest.raises(KitError, match="response 1 came back without a score"):
        sharding.score("bt", [tiny_folder], [1, 2], ["a", "b"], processes=2, machine=machine, folder=tmp_path)


def _in_this_process(job, processes, strategy, machine, tell=None, sharing=False):
    """As `launch.run` for shared-out rows, without the time that two processes take to import the libraries."""
    read = read_json(job)
    for rank in range(processes):
        given = {**read["arguments"], "machine": machine}
        sharding.do_share(read["call"], given, read_rows(job.parent / read["rows"]), job.parent, rank, processes)


@pytest.mark.parametrize("scorer", ["bt", "pairwise", "ensemble"])
def test_shared_out_scores_are_those_of_one_process(two, asked, machine, tmp_path, monkeypatch, scorer):
    """The pairwise model compares the answers to one prompt with each other: they must stay together."""
    prompts = [row["prompt"] for row in asked for _ in range(2)]
    texts = [f"The bear sat. {i}" for i in range(len(prompts))]
    folder = two.one["train_pairwise" if scorer == "pairwise" else "train_reward"].path
    folders = [str(folder)] * (2 if scorer == "ensemble" else 1)
    alone = sharding.open_scorer(scorer, folders, machine).score(prompts, texts)
    if scorer != "pairwise":  # that one is started for real
        monkeypatch.setattr(launch, "run", _in_this_process)
    both = sharding.score(scorer, folders, prompts, texts, processes=2, machine=machine, folder=tmp_path)
    assert both == pytest.approx(alone, abs=1e-5) and both.dtype == alone.dtype and len(set(both.tolist())) > 3


def test_more_processes_than_prompts(asked, tiny_folder, machine, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "run", _in_this_process)
    how = dict(n=2, temperature=1.0, max_new_tokens=4, seed=1, machine=machine)
    rows = sharding.sample(tiny_folder, asked[:2], processes=3, folder=tmp_path, **how)
    assert [(row["prompt_id"], row["sample"]) for row in rows] == [("p0", 0), ("p0", 1), ("p1", 0), ("p1", 1)]


def test_stages_train_in_as_many_processes_as_the_profile_says(tmp_path, monkeypatch):
    from rlhf_kit import course, stages

    calls = []

    def train(call, *order, processes, strategy, tell, **named):
        calls.append((call, processes, strategy, tell))
        return getattr(training, call)(*order, **named)

    monkeypatch.setattr(launch, "train", train)
    small = {"sft.epochs": 0.1}
    one = stages.sft(course.start("smoke", run="a", overrides=small, root=tmp_path, quiet=True))
    asked = {**small, "launch.processes": 2, "launch.strategy": "ddp"}
    two = stages.sft(course.start("smoke", run="a", overrides=asked, root=tmp_path, quiet=True))
    assert calls == [("train_sft", 2, "ddp", None)] and one.key != two.key
    assert one.manifest["facts"]["weights"] == two.manifest["facts"]["weights"]  # the same arguments
    assert two.manifest["ledger"] == one.manifest["ledger"]


def test_stages_sample_and_score_in_several_processes(tmp_path, monkeypatch):
    """A course whose profile says two processes; its key for the samples is that of one process."""
    from rlhf_kit import course, stages

    calls = []
    monkeypatch.setattr(launch, "run", lambda *a, **k: calls.append(a[1:3]) or _in_this_process(*a, **k))
    small = {"data.prompts_per_iteration": 4, "data.eval_prompts": 4, "sft.epochs": 0.1, "sampling.n": 2}
    plain = course.start("smoke", run="plain", overrides=small, root=tmp_path, quiet=True)
    policy = stages.sft(plain)
    both = course.start("smoke", run="plain", overrides={**small, "launch.processes": 2, "launch.strategy": "ddp"}, root=tmp_path, quiet=True)
    drawn = stages.responses(both, policy, "eval", temperature=1.0)
    assert calls == [(2, "none")] and len(drawn.rows()) == 8 and not (drawn.path / "shards").exists()
    assert stages.responses(plain, policy, "eval", temperature=1.0).key == drawn.key
    rewards = stages.scores(both, drawn, "random")
    assert calls == [(2, "none")] and len(rewards.rows()) == 8  # no model to share out


def test_a_job_written_by_hand_stands_by_itself(tmp_path):
    """Only the jobs of `train` and of sharding end with the process that wrote them."""
    from rlhf_kit.runs import read_json

    assert read_json(launch.write_job(tmp_path / "a", "train_dpo", {}, [{"a": 1}], 2))["parent"] is None
    assert read_json(launch.write_job(tmp_path / "b", "train_dpo", {}, [{"a": 1}], 2, follow=True))["parent"][0] == os.getpid()


def test_a_schedulers_world_size_is_refused_in_a_sentence(monkeypatch):
    from rlhf_kit.trainers.batches import world_size

    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(KitError, match="WORLD_SIZE is 8 in the environment, but no other process was started"):
        world_size()


def test_the_planners_card_does_not_change_a_trainings_key(tmp_path):
    from rlhf_kit.profile_schema import Launch
    from rlhf_kit.recipe import policy

    def key(card):
        profile = SimpleNamespace(launch=Launch(processes=2, strategy="ddp", card=card))
        return policy._launched(SimpleNamespace(profile=profile))

    assert key("a100-80") == key("h100-80") == {"launch": {"processes": 2, "strategy": "ddp"}}
