# SPDX-License-Identifier: AGPL-3.0-or-later
"""Command line: `imgfp demo`, `run PARAMS.yaml`, `look`, `case`, `duplicates`, `retry`, `init`, `lab`, `app`, `doctor`, `verify` and others."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from imgfp import __version__

if TYPE_CHECKING:
    from imgfp.runner import notebooks


def main(words: list[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 1 a stage failed, 2 could not start, 128 and the number
    of the signal that ended it."""
    options = _parse(words)
    if options.command == "doctor":
        from imgfp.runner import doctor

        return doctor.report()
    if options.command == "lab":
        return _lab()
    from imgfp import store

    if options.command == "app":
        return _serve(options.folder, options.port)

    if options.command == "convert":
        try:
            print(_convert(options))
        except (ValueError, FileNotFoundError, ModuleNotFoundError, store.StoreError) as error:
            print(f"imgfp: {error}", file=sys.stderr)
            return 2
        return 0

    if options.command == "init":
        from imgfp.runner import project

        try:
            written = project.init(options.folder)
        except (store.StoreError, FileNotFoundError) as error:
            print(f"imgfp: {error}", file=sys.stderr)
            return 2
        print(
            f"{len(written)} files in {options.folder}; edit {options.folder}/params/mine.yaml, then"
        )
        print(f"cd {options.folder} && imgfp run params/mine.yaml")
        return 0
    from imgfp import urls

    if options.command == "verify":
        try:
            return _verify(store.project_path(options.folder), options.repair)
        except store.StoreError as error:
            print(f"imgfp: {error}", file=sys.stderr)
            return 2
    done = {
        "publish": _publish,
        "fetch": _fetch,
        "compact": _compact,
        "export": _export,
        "import-decisions": _import_decisions,
    }
    if options.command in done:
        try:
            print(done[options.command](options))
        except (store.StoreError, urls.UrlError, ValueError) as error:
            print(f"imgfp: {error}", file=sys.stderr)
            return 2
        return 0
    from imgfp.runner import notebooks, params

    if options.command in ("look", "case"):
        try:
            return _look(options) if options.command == "look" else _case(options)
        except (store.StoreError, params.ParameterError, ValueError) as error:
            print(f"imgfp: {error}", file=sys.stderr)
            return 2
    if options.command == "retry":
        os.environ[store.RETRY] = "1"  # kernels inherit it
    main_thread = threading.current_thread() is threading.main_thread()
    for number in (signal.SIGTERM, signal.SIGHUP) if main_thread else ():
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores the second
            signal.signal(number, _interrupt)
    try:
        if options.command == "duplicates":
            from imgfp.runner import project

            where = options.folder, options.library, options.run
            options.profile, options.assignments = project.self_search(*where)
        plan = notebooks.prepare(options.profile, options.assignments)
        if options.status:
            print("\n".join(_status(plan)))
            return 0
        if options.plan:
            return _plan(plan)
        _check_truth(plan)
        expect, tell = _expectation(plan), _teller(plan)
        notebooks.execute(plan, start=options.start, only=options.only, expect=expect, tell=tell)
        if not options.only and notebooks.finishes(plan):
            print("\n" + "\n".join(_conclusion(plan)))
    except notebooks.StageFailed as failure:
        print(f"\nimgfp: {failure}", file=sys.stderr)
        return 1
    except (store.StoreError, urls.UrlError) as error:
        print(f"\nimgfp: {error}", file=sys.stderr)  # the newline ends a progress bar
        return 2
    except (params.ParameterError, FileNotFoundError) as error:
        print(f"imgfp: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as ended:
        number = ended.args[0] if ended.args else signal.SIGINT
        print(
            f"\nimgfp: ended by {number.name}; run the same command again to go on", file=sys.stderr
        )
        return 128 + number
    if options.command == "duplicates":
        return _tell_duplicates(plan, options.csv)
    if options.command == "demo":
        return _serve(str(plan.run.root), options.port, show="look")
    return 0


def _serve(folder: str, port: int, show: str = "") -> int:
    """Serve the app until it is stopped, and open its tab `show` in a browser, if one is named."""
    from imgfp import app, store

    try:
        app.serve(folder, port, show=show)
    except store.StoreError as error:
        print(f"imgfp: {error}", file=sys.stderr)
        return 2
    return 0


def _status(plan: notebooks.Plan) -> list[str]:
    """The stages with their state, then what the run has found, or has found so far."""
    from imgfp.results import summary
    from imgfp.runner import notebooks

    states = notebooks.states(plan)
    lines = notebooks.stage_lines(plan, states)
    finished = states.get(notebooks.finishes(plan)) == "ok"
    found = _conclusion(plan) if finished else summary.first_answers(plan.run)
    return [*lines, "", *found] if found else lines


def _conclusion(plan: notebooks.Plan) -> list[str]:
    from imgfp.results import Results, summary

    return summary.conclusion(Results(plan.run, plan.library))


def _expectation(plan: notebooks.Plan) -> Callable[[], dict[str, float]]:
    """What the stages of a run are expected to take, asked while it goes on."""
    from imgfp.benchmarks import forecast

    known = forecast.known_references(plan.library)
    return lambda: forecast.expected_s(plan.run, plan.library, known)


def _teller(plan: notebooks.Plan) -> Callable[[str], list[str]]:
    """What is told after a stage."""
    from imgfp.results import summary

    told = {
        "01": lambda: summary.listed(plan.run, plan.library),
        "03": lambda: summary.first_answers(plan.run),
    }
    return lambda number: told[number]() if number in told else []


def _check_truth(plan: notebooks.Plan) -> None:
    """Raise ParameterError where the run could not be measured by its truth; the demo makes its own."""
    from imgfp import stages
    from imgfp.runner import params

    numbers = {stage.number for stage in plan.stages}
    if "00" not in numbers and {"01", "09"} <= numbers:
        try:
            for note in stages.check_truth(plan.values, plan.run, plan.library):
                print(note)
        except ValueError as error:
            raise params.ParameterError(f"truth: {error}") from None


def _interrupt(number: int, _frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one would end the end
    raise KeyboardInterrupt(signal.Signals(number))


def _verify(folder: Path, repair: bool) -> int:
    """Read every byte of a library or a run, print a line per damaged file; returns 1 if there is any, else 0."""
    from imgfp import store

    if not folder.is_dir():
        raise store.StoreError(f"{store.show(folder)} does not exist; name a library or a run")
    notebooks = store.Run(folder).notebooks
    with store.lock(folder), store.lock(notebooks) if notebooks.is_dir() else nullcontext():
        found = store.find_damage(folder)
        for damage in found:
            print(damage)
        if repair:
            store.repair(folder, found)
    if not found:
        print(f"ok   every file of {store.show(folder)} is as it was written")
    elif repair:
        print(f"{len(found)} repaired or deleted; the next run makes what was deleted again")
    return 1 if found else 0


def _lab() -> int:
    from imgfp.inference import check_installed

    try:
        check_installed("jupyterlab", "lab", "imgfp lab")
        from imgfp.runner import serving

        serving.lab()
    except (FileNotFoundError, ModuleNotFoundError) as error:
        print(f"imgfp: {error}", file=sys.stderr)
        return 2
    return 0


def _plan(prepared: notebooks.Plan) -> int:
    from imgfp import store
    from imgfp.benchmarks import planning

    try:
        planned = planning.plan_run(prepared.values, prepared.library)
    except ValueError as error:
        print(f"imgfp: {error}", file=sys.stderr)
        return 2
    print("\n".join(planning.lines(planned)))
    print(f"stored in       {store.show(prepared.library.plan_json)}")
    if planned.refusal():
        print(f"imgfp: {planned.refusal()}", file=sys.stderr)
        return 2
    return 0


def _look(options: argparse.Namespace) -> int:
    """Look pictures up in a library and print the answers; returns 0, or 1 where a picture could not be read."""
    from imgfp.lookup import Library

    found = Library(options.library).look(*options.pictures)
    if options.html:
        found.save(options.html)
    print(found.to_json() if options.json else found)
    return 1 if len(found.rejects) else 0


def _case(options: argparse.Namespace) -> int:
    """Tell what a run says of a pair, and write its case file. Raises StoreError for a run or an id that is not there."""
    from imgfp import store
    from imgfp.report import Case
    from imgfp.results import Results

    case = Case(Results(options.run, options.library), options.query, options.reference)
    print(f"{case.verdict} Evidence: {case.words}.")
    if options.html:
        store.write_bytes(options.html, case.to_html().encode())
    if options.pdf:
        store.write_bytes(options.pdf, case.to_pdf())
    return 0


def _tell_duplicates(plan: notebooks.Plan, csv: Path | None) -> int:
    """Print what the run has found, and copy its table of groups to a file if one is given."""
    from imgfp import store
    from imgfp.results import Results
    from imgfp.results.duplicates import find_duplicates

    try:
        found = find_duplicates(Results(plan.run, plan.library))
        if csv:
            store.write_sheet(csv, found.members)
    except store.StoreError as error:
        print(f"imgfp: {error}", file=sys.stderr)
        return 2
    for path in plan.run.duplicates_csv, plan.run.duplicates_html:
        print(f"{path.stem:<12} {store.show(path)}")
    print(f"{found}.")
    return 0


def _convert(options: argparse.Namespace) -> str:
    from imgfp.descriptors.base import Preprocessing
    from imgfp.training.convert import convert

    steps = Preprocessing(options.side, options.mean, options.std, options.interpolation)
    return convert(options.source, options.target, trust=options.trust, preprocessing=steps)


def _publish(options: argparse.Namespace) -> str:
    from imgfp import store

    return str(store.publish(store.Library(store.project_path(options.library)), options.url))


def _fetch(options: argparse.Namespace) -> str:
    from imgfp import store

    folder = store.project_path(options.folder) if options.folder else None
    return str(store.fetch(options.url, folder))


def _compact(options: argparse.Namespace) -> str:
    from imgfp import store
    from imgfp.stages.compaction import compact

    library = store.Library(store.project_path(options.library))
    return str(compact(library, dry_run=options.dry_run))


def _export(options: argparse.Namespace) -> str:
    from imgfp import store
    from imgfp.exchange import FORMATS, export
    from imgfp.results import Results
    from imgfp.runner.params import nearest

    if options.format not in FORMATS:
        hint = nearest(options.format, list(FORMATS)) or f"; known are {', '.join(FORMATS)}"
        raise ValueError(f"--as: there is no format '{options.format}'{hint}")
    written = export(Results(options.run), options.format, options.folder)
    return f"{len(written):,} files in {store.show(store.project_path(options.folder))}"


def _import_decisions(options: argparse.Namespace) -> str:
    from imgfp import store
    from imgfp.exchange.label_studio import import_decisions
    from imgfp.results import Results

    results = Results(options.run)
    added, known = import_decisions(results, options.file)
    log = store.show(results.decisions_path)
    return f"decisions added to {log}: {added:,}; there already: {known:,}"


def _parse(words: list[str] | None) -> argparse.Namespace:
    parser = _parser()
    options, rest = parser.parse_known_args(words)
    if rest and (
        options.command not in ("run", "retry") or any(word.startswith("-") for word in rest)
    ):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.assignments += rest  # argparse stops collecting them at the first option
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="imgfp", description="Image copy detection.")
    parser.add_argument("--version", action="version", version=f"imgfp {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    shower = commands.add_parser(
        "demo", help="run the demo where it has not run yet, and open it in a browser"
    )
    shower.set_defaults(profile=Path("demo"), assignments=[])
    runner = commands.add_parser("run", help="execute the numbered notebooks of a profile")
    retrier = commands.add_parser(
        "retry", help="run again, with the refused files that another trial may read"
    )
    for command in (runner, retrier):
        command.add_argument("profile", type=Path, metavar="PARAMS.yaml_OR_RUN")
        command.add_argument(
            "assignments", nargs="*", default=[], metavar="key=value", help="override a parameter"
        )
    doubler = commands.add_parser("duplicates", help="find the copies inside one folder")
    doubler.add_argument("folder", metavar="DIR")
    doubler.add_argument(
        "--library", default="", metavar="DIR", help="where what is computed is kept"
    )
    doubler.add_argument("--run", default="", metavar="DIR", help="where the answer is kept")
    doubler.add_argument("--csv", type=Path, metavar="FILE", help="write the groups there, too")
    for command in (shower, doubler, retrier):
        command.set_defaults(start="", only="", status=False, plan=False)
    runner.add_argument("--from", dest="start", default="", metavar="NN", help="redo from a stage")
    runner.add_argument("--only", default="", metavar="NN", help="redo one stage")
    runner.add_argument(
        "--status",
        action="store_true",
        help="list the stages with their state, the time left, the answers so far",
    )
    runner.add_argument(
        "--plan", action="store_true", help="measure a sample and tell what the run will cost"
    )
    looker = commands.add_parser("look", help="look pictures up in a finished library, now")
    looker.add_argument("pictures", nargs="+", metavar="PICTURE", help="a file or a folder of them")
    looker.add_argument("--library", required=True, metavar="DIR")
    looker.add_argument("--json", action="store_true", help="print the answers as JSON")
    looker.add_argument("--html", default="", metavar="FILE", help="write them as a page, too")
    _add_case(commands.add_parser("case", help="write everything about one pair into one file"))
    starter = commands.add_parser("init", help="lay out notebooks and params in a folder to change")
    starter.add_argument("folder", type=Path, metavar="DIR")
    commands.add_parser("lab", help="open the notebooks in JupyterLab")
    server = commands.add_parser("app", help="serve runs and libraries as pages on this machine")
    server.add_argument(
        "folder", nargs="?", default="", metavar="RUN_or_LIBRARY", help="open it first"
    )
    for command in (shower, server):
        command.add_argument("--port", type=int, default=0, help="instead of 8866, or any free one")
    _add_converter(commands.add_parser("convert", help="weights of PyTorch to ONNX or safetensors"))
    publisher = commands.add_parser("publish", help="make a URL hold what a library holds")
    publisher.add_argument("library", type=Path, metavar="LIBRARY")
    publisher.add_argument("url", metavar="URL")
    fetcher = commands.add_parser("fetch", help="bring a published library here")
    fetcher.add_argument("url", metavar="URL")
    fetcher.add_argument(
        "folder", nargs="?", metavar="DIR", help="a copy to change; without: for library_dir=URL"
    )
    compacter = commands.add_parser(
        "compact", help="delete what a library keeps of images that have gone or changed"
    )
    compacter.add_argument("library", type=Path, metavar="LIBRARY")
    compacter.add_argument("--dry-run", action="store_true", help="tell what would be deleted")
    exporter = commands.add_parser("export", help="write a finished run as files of other systems")
    exporter.add_argument("run", metavar="RUN")
    exporter.add_argument("--as", dest="format", required=True, metavar="FORMAT")
    exporter.add_argument("folder", metavar="DIR", help="empty, or not there yet")
    importer = commands.add_parser(
        "import-decisions", help="add the decisions of a Label Studio export to a run"
    )
    importer.add_argument("run", metavar="RUN")
    importer.add_argument("file", type=Path, metavar="FILE.json")
    commands.add_parser("doctor", help="check the installation")
    verifier = commands.add_parser("verify", help="check every byte of a library or a run")
    verifier.add_argument("folder", metavar="LIBRARY_OR_RUN")
    verifier.add_argument(
        "--repair", action="store_true", help="delete what is damaged; the next run makes it again"
    )
    return parser


def _add_case(caser: argparse.ArgumentParser) -> None:
    caser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    caser.add_argument("query", metavar="QUERY", help="id of a query")
    caser.add_argument("reference", metavar="REFERENCE", help="id of a reference")
    caser.add_argument(
        "--library", default="", metavar="DIR", help="where the library lies, if it has moved"
    )
    caser.add_argument("--html", type=Path, metavar="FILE", help="write one page")
    caser.add_argument("--pdf", type=Path, metavar="FILE", help="write a PDF")


def _add_converter(converter: argparse.ArgumentParser) -> None:
    converter.add_argument("source", type=Path, metavar="FILE")
    converter.add_argument("target", type=Path, metavar="OUT.onnx_OR_OUT.safetensors")
    converter.add_argument(
        "--trust", action="store_true", help="run the code of a file that holds any, confined"
    )
    steps = converter.add_argument_group("images of a TorchScript descriptor; without: SSCD's")
    steps.add_argument("--side", type=int, default=320, metavar="PX", help="side of the square")
    steps.add_argument(
        "--interpolation", default="bilinear", choices=("area", "bilinear", "bicubic")
    )
    for name, default in (("--mean", (0.485, 0.456, 0.406)), ("--std", (0.229, 0.224, 0.225))):
        steps.add_argument(name, type=float, nargs=3, default=default, metavar=("R", "G", "B"))


if __name__ == "__main__":
    sys.exit(main())
