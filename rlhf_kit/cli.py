"""The command line: `python -m rlhf_kit run|sweep|report|site|doctor|export`."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from pathlib import Path
from typing import Any

import yaml

from rlhf_kit.errors import KitError


def _pairs(texts: list[str], option: str) -> dict[str, str]:
    """["a=1"] -> {"a": "1"}; KitError for a text without `=`."""
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise KitError(f"{option} {text!r} must look like name=value")
        pairs[name.strip()] = value
    return pairs


def _values(texts: list[str]) -> dict[str, Any]:
    values = {}
    for key, text in _pairs(texts, "--set").items():
        try:
            values[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            values[key] = text
    return values


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m rlhf_kit", description="Online RLHF as a course of notebooks."
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="run|sweep|report|site|doctor|export")

    run = commands.add_parser("run", help="execute the notebooks of the course headlessly")
    run.add_argument("--profile", default="laptop", help="a profile's name or a YAML file (default: laptop)")
    run.add_argument(
        "--run", help="name of the run under runs/ (default: the profile's, with the seed if not 0)"
    )
    run.add_argument("--seed", type=int, default=0, help="prompts, samples and training follow it (default: 0)")
    run.add_argument("--from", dest="start", metavar="NN", help="start with this notebook, as 03")
    run.add_argument("--only", metavar="NN[,NN]", help="only these notebooks, as 03 or 03,05")
    run.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of the notebooks' parameters cell; may be repeated",
    )
    run.add_argument(
        "--set",
        action="append",
        default=[],
        dest="sets",
        metavar="KEY=VALUE",
        help="a value of the profile, as dpo.beta=0.2; may be repeated",
    )
    run.add_argument("--notebooks", type=Path, help="another folder of notebooks")
    run.add_argument("--again", action="store_true", help="execute also what has not changed")
    run.add_argument(
        "--store-outputs",
        action="store_true",
        help="afterwards put the cleaned outputs into the notebooks themselves",
    )

    sweep = commands.add_parser("sweep", help="run an experiment over several seeds")
    sweep.add_argument("--experiment", required=True)
    sweep.add_argument("--profile", default="laptop")
    sweep.add_argument("--seeds", default="0-7", help="as 0-7 or 0,2,5")
    sweep.add_argument("--jobs", type=int, default=1, help="seeds at a time")

    report = commands.add_parser(
        "report",
        help="claims, metrics and policies of a run, alone or against another",
        description="Claims, metrics, tables and policies of a run, alone or against another run: printed as Markdown, and "
        "written as Markdown, HTML and JSON to runs/RUN/report/ (report.* or report-against-OTHER.*).",
    )
    report.add_argument("--run", help="name of a run under runs/ (default: the newest finished one)")
    report.add_argument("--against", metavar="RUN", help="another run to compare with")

    pages = commands.add_parser("site", help="a run's pages in a folder of your own, to publish on any static host")
    pages.add_argument("--run", help="name of a run under runs/ (default: the newest finished one)")
    pages.add_argument("--out", required=True, type=Path, help="a new or empty folder, or that of an earlier site")

    doctor = commands.add_parser(
        "doctor",
        help="what this machine can do, which profile fits, what is missing",
        description="What this machine can do, which profile fits, what is missing. Exit status: 0 if the profile (default: laptop) "
        "fits and the packages are as pinned, 1 if not, 2 for wrong input; `make doctor` ends well in the first two cases.",
    )
    doctor.add_argument("--profile", help="also print this profile's plan: values, memory, hours, commands")
    doctor.add_argument(
        "--set", action="append", default=[], dest="sets", metavar="KEY=VALUE", help="a value of the profile"
    )
    doctor.add_argument("--card", help="plan for this card: t4, l4, a100-40, a100-80, h100-80, h200")
    doctor.add_argument("--json", action="store_true", help="only the plan, as JSON")
    doctor.add_argument("--bench", action="store_true", help="measure this machine's speed instead")

    export = commands.add_parser("export", help="take a policy out of a run, with a model card")
    export.add_argument("--policy", required=True, help="folder of a policy, a stage or a LoRA adapter")
    export.add_argument("--out", required=True, type=Path, help="a new folder")
    export.add_argument(
        "--format", default="safetensors", choices=("safetensors", "gguf"), help="a folder for transformers (default), or one file for llama.cpp"
    )
    export.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="of the weights (default: as they are; float16 for gguf)")
    export.add_argument("--base", help="base model of a LoRA adapter, if not the one that it names")
    return top


def _run(args: argparse.Namespace) -> int:
    from rlhf_kit.running import cards, notebooks, results, runner

    runner.stop_on_terminate()
    folder = args.notebooks.resolve() if args.notebooks else notebooks.FOLDER
    if args.store_outputs and "EXERCISES=solution" in args.param:
        raise KitError("--store-outputs would store the solutions in the lessons; leave --param EXERCISES=solution out")
    status, run = runner.run_course(
        runner.Options(
            profile=args.profile,
            run=args.run,
            seed=args.seed,
            only=args.only,
            start=args.start,
            params=_pairs(args.param, "--param"),
            sets=_values(args.sets),
            folder=folder,
            again=args.again,
        )
    )
    if args.store_outputs and status == 0:
        ran = [book.name for book in notebooks.select(folder, args.only, args.start)]
        for path in results.store_outputs(run, folder, ran):
            print(f"stored {path.name}")
        results.store_timings(run, args.profile, only=ran)
        if folder == notebooks.FOLDER:
            cards.stamp(folder)  # the times in the opening cards
    return status


def main(arguments: list[str] | None = None) -> int:
    """Runs a command: 0 fine, 1 a notebook, claim or seed failed, or a profile does not fit, 2 wrong input, 130 interrupted."""
    args = parser().parse_args(arguments)
    try:
        status = _command(args)
        sys.stdout.flush()
        return status
    except KitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `... | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.filename is None and error.errno != errno.ENOSPC:
            raise  # not about a file of the reader's
        print(f"error: {_os_error(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        told = "what is finished is kept, and the same command continues" if args.command in ("run", "sweep") else "the same command begins again"
        print(f"\nstopped; {told}", file=sys.stderr)
        return 130


def _command(args: argparse.Namespace) -> int:
    if args.command == "run":
        return _run(args)
    if args.command == "sweep":
        from rlhf_kit.running.runner import stop_on_terminate
        from rlhf_kit.running.sweep import parse_seeds, sweep

        stop_on_terminate()
        return sweep(args.experiment, args.profile, parse_seeds(args.seeds), args.jobs)[0]
    if args.command == "report":
        return _report(args)
    if args.command == "site":
        from rlhf_kit import site

        print(f"site: {site.publish(_named(args.run), args.out)}")
        return 0
    if args.command == "export":
        from rlhf_kit.checkpoints.exporting import export

        print(f"exported to {export(args.policy, args.out, args.format, dtype=args.dtype, base=args.base)}")
        return 0
    return _doctor(args)


def _report(args: argparse.Namespace) -> int:
    from rlhf_kit.running import report, which
    from rlhf_kit.runs import shown

    name = _named(args.run, args.against)
    print(report.report(name, args.against))
    stem = report.stem(args.against)
    print(f"written to {shown(which.existing(name) / 'report')}/: {stem}.md, {stem}.html, {stem}.json", file=sys.stderr)
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from rlhf_kit import doctor

    if args.bench:
        if args.sets or args.card or args.json:
            raise KitError("--bench measures this machine's speed; --set, --card and --json are about a profile's plan, without --bench")
        from rlhf_kit import speed

        print(speed.measure(args.profile or "laptop"))
        return 0
    status, text = doctor.doctor(args.profile, _values(args.sets), args.card, args.json)
    print(text)
    return status


def _named(name: str | None, against: str | None = None) -> str:
    """The run that is named, or the newest finished one, which is then told."""
    from rlhf_kit.running import which

    if name is not None:
        return name
    found = which.newest(but=against)
    print(f"run {found}, the newest finished one; --run names another", file=sys.stderr)
    return found


def _os_error(error: OSError) -> str:
    """What the system refuses, with the file and what to do about it."""
    if error.errno == errno.ENOSPC:
        return "the disk is full; make room, and the same command continues"
    place = Path(str(error.filename))
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        place = place if os.path.exists(place) else place.parent  # a file that cannot be made is its folder's matter
        return f"{place}: {error.strerror}; make it readable and writable for you, or name another (all runs lie in RLHF_KIT_RUNS)"
    return f"{place}: {error.strerror}"
