# SPDX-License-Identifier: AGPL-3.0-or-later
"""The pages of the app: one handler per tab, and what they ask for."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote, urlencode

from imgfp import store, viz
from imgfp.app import answers, duplicates, tuning, views
from imgfp.app.answers import Filter
from imgfp.app.shell import HERE, OF_KIND, TABS, Page
from imgfp.app.sources import LOOKS_KEPT, Source, progress
from imgfp.app.views import Key
from imgfp.decoding import Limits
from imgfp.report import Case
from imgfp.scoring.relations import RELATIONS
from imgfp.store import decisions

#: The report is shown in a frame that is a stranger to this page: it cannot ask the server for anything.
_REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; frame-ancestors 'self'"
)
_TYPES = {".css": "text/css", ".js": "text/javascript"}
_CASE_TYPES = {"html": "text/html; charset=utf-8", "pdf": "application/pdf"}


class Home(Page):
    """The first tab of the first source."""

    async def get(self) -> None:
        source = next(iter(self.desk.shelf.sources().values()), None)
        first = "answers" if source is not None and source.kind == "run" else "look"
        self.redirect(self.address(f"/{first}", of="" if source is None else source.key))


class Menu(Page):
    """Another source: the tab that was open where it has that, else its first."""

    async def get(self) -> None:
        sources, tab = self.desk.shelf.sources(), self.words.get("tab", "")
        if self.of in sources:
            has = OF_KIND[sources[self.of].kind]
            tab = tab if tab in has else has[0]
        words = {"of": self.of}
        self.redirect(f"/{tab if tab in TABS else 'look'}?{urlencode(words)}")


class Answers(Page):
    """Every query with its best candidates."""

    tab = "answers"

    def page(self) -> str:
        wanted = Filter.of(self.words)
        shown = views.gallery(self.opened(), wanted, self.whole("page", 1))
        choices = {
            "verdict": answers.VERDICTS,
            "relation": {"": "any relation", **{name: name for name in RELATIONS}},
            "branch": {"": "any branch", **{name: name for name in viz.BRANCH_COLOURS}},
            "decided": answers.DECIDED,
            "sort": answers.SORTS,
        }
        return self.render_page("answers.html.j2", wanted=wanted, choices=choices, **shown)


class Pair(Page):
    """The inspector of one pair."""

    tab = "pair"

    def page(self) -> str:
        opened, words = self.opened(), self.words
        wanted, knobs = Filter.of(words), views.Knobs.of(words)
        keys = views.in_order(opened, wanted)
        key = words.get("query", ""), words.get("reference", "")
        if key == ("", ""):
            if not keys:
                raise ValueError("no pair passes the filter: choose one in Answers")
            key = keys[0]
        opened.check(*key)
        around = views.neighbours(keys, key)
        shown = views.pair(opened, key, knobs)
        return self.render_page(
            "pair.html.j2", query_id=key[0], reference_id=key[1], **around, **shown
        )


class Review(Page):
    """The queue of pairs to decide, or one query with all its candidates."""

    tab = "review"

    def page(self) -> str:
        opened, words = self.opened(), self.words
        if query_id := words.get("query", ""):
            if query_id not in opened.results.queries.index:
                raise ValueError(f"there is no query {viz.label(query_id)!r} here")
            cards = views.candidates_of(opened, query_id)
            drawn = views.drawn_query(opened, query_id)
            return self.render_page("query.html.j2", query_id=query_id, cards=cards, drawn=drawn)
        queue = answers.to_review(opened.pairs)
        keys: list[Key] = list(zip(queue["query_id"], queue["reference_id"], strict=True))
        reported = int(opened.pairs["reported"].sum())
        count = {
            "left": len(keys),
            "reported": reported,
            "conflicts": int(queue["conflicting"].sum()),
        }
        at = min(self.whole("at", 0), max(len(keys) - 1, 0))
        key = keys[at] if keys else None
        shown = {} if key is None else views.side_by_side(opened, key)
        others = [] if key is None else views.candidates_of(opened, key[0])
        return self.render_page(
            "review.html.j2",
            key=key,
            at=at,
            count=count,
            others=others,
            has_threshold=opened.results.threshold is not None,
            **shown,
        )


class Decide(Page):
    """A decision on one pair or on several, or one that is taken back."""

    async def get(self) -> None:
        self.redirect(self.address("/review"))

    async def post(self) -> None:
        await self._answer(self.desk.reading, self._decide)

    def _decide(self) -> str:
        source = self.source()
        if source.kind == "library":
            raise ValueError(
                "a library alone has no pairs to decide on: look a picture up, or choose a run"
            )
        log = self.desk.shelf.results(source).decisions_path
        reviewer = self.get_body_argument("reviewer", "")
        decision = self.get_body_argument("decision")
        # Those that are ticked, else the one that is shown; without ticks the last decision is taken back, on all its
        # pairs.
        undo = decision == decisions.UNDO
        names = ("pair",) if undo else ("pair", "current")
        pairs = next(filter(None, map(self.get_body_arguments, names)), [])
        keys = [*dict.fromkeys(map(_key, pairs))]
        if undo and not keys:
            keys = decisions.last_of(decisions.read(log), reviewer)
        if not keys:
            raise ValueError(
                f"nothing to undo: {reviewer or 'nobody'} has no decision on this run"
                if undo
                else "no pair is selected: tick some, then decide"
            )
        reason = self.get_body_argument("reason", "")
        decisions.append_all(log, keys, decision, reviewer=reviewer, reason=reason)
        self.set_cookie("imgfp-reviewer", quote(reviewer), expires_days=365, samesite="Lax")
        self.set_status(303)
        self.set_header("Location", _local(self.get_body_argument("back", "/")))
        return ""


class Look(Page):
    """Pictures dropped, pasted or chosen, and their answers."""

    tab = "look"

    def page(self) -> str:
        source, shelf = self.source(), self.desk.shelf
        library = store.show(shelf.library_of(source))
        shown = views.looked(self.opened(), self.whole("page", 1)) if source.kind == "look" else {}
        run = self._run_of_examples()
        return self.render_page(
            "look.html.j2",
            library=library,
            shown=shown,
            run=run,
            examples=views.examples(shelf.results(run)) if run else [],
            limit_mb=Limits().max_file_mb,
            kept=LOOKS_KEPT,
        )

    async def post(self) -> None:
        await self._answer(self.desk.looking, self._look)

    def _look(self) -> str:
        files = [(file["filename"], file["body"]) for file in self.request.files.get("picture", [])]
        files = [(name, body) for name, body in files if name or body]
        # What is open belongs to the thread of the pages.
        library, example = self.desk.reading.submit(self._asked).result()
        if not files and not example:
            raise ValueError("no picture came: choose a file, drop one, or paste one")
        key = self.desk.shelf.look(library, example or files)
        self.set_status(303)
        run = self._run_of_examples()
        words = {"of": key, **({"run": run.key} if run else {})}
        self.set_header("Location", f"/look?{urlencode(words)}")
        return ""

    def _asked(self) -> tuple[Path, list[tuple[str, bytes]]]:
        """The folder of the library, and the query of a run that was pressed in the place of a picture, if any."""
        shelf, run = self.desk.shelf, self._run_of_examples()
        library, query_id = shelf.library_of(self.source()), self.get_body_argument("example", "")
        return library, [
            views.file_of_query(shelf.results(run), query_id)
        ] if run and query_id else []

    def _run_of_examples(self) -> Source | None:
        """The run whose queries are offered: the one that is open, or was when the pictures were looked up. None without
        answers."""
        sources = self.desk.shelf.sources()
        run = sources.get(self.words.get("run", "")) or self.source()
        return run if run.kind == "run" and store.Run(run.folder).predictions_csv.exists() else None


class Duplicates(Page):
    """The groups of pictures that are copies of each other."""

    tab = "duplicates"

    def page(self) -> str:
        results = self.desk.shelf.results(self.source())
        shown = duplicates.shown(results, self.words.get("order", ""), self.whole("page", 1))
        return self.render_page("duplicates.html.j2", **shown)


class DuplicatesFile(Page):
    """The table of these groups, as notebook 09 has written it."""

    def page(self) -> bytes:
        path = self.desk.shelf.results(self.source()).run.duplicates_csv
        made = store.read_sealed(path)
        self.set_header("Content-Type", "text/csv; charset=utf-8")
        self.set_header("Content-Disposition", f'attachment; filename="{path.name}"')
        return made


class Tune(Page):
    """What other settings would have given, and a button that writes them down."""

    tab = "tune"

    def page(self) -> str:
        shown = tuning.shown(self.desk.shelf.results(self.source()), self.words)
        return self.render_page("tune.html.j2", written="", **shown)

    async def post(self) -> None:
        await self._answer(self.desk.reading, self._write)

    def _write(self) -> str:
        results = self.desk.shelf.results(self.source())
        written = tuning.write(results, self.words, self.get_body_argument("profile", ""))
        return self.render_page(
            "tune.html.j2", written=written, **tuning.shown(results, self.words)
        )


class Report(Page):
    """The report of a run in a frame."""

    tab = "report"

    def page(self) -> str:
        results = self.desk.shelf.results(self.source())
        if not results.run.report_html.is_file():
            raise ValueError(
                f"{store.show(results.run.report_html)} is not written yet: notebook 09 does it"
            )
        return self.render_page("report.html.j2")


class ReportFile(Page):
    """The file of the report, as a stranger to the pages of the app."""

    def page(self) -> bytes:
        path = self.desk.shelf.results(self.source()).run.report_html
        self.set_header("Content-Security-Policy", _REPORT_POLICY)
        return path.read_bytes()


class CaseFile(Page):
    """Everything about one pair as a file, see `report.Case`."""

    def page(self) -> bytes:
        opened = self.opened()
        key = opened.check(self.words.get("query", ""), self.words.get("reference", ""))
        case, suffix = Case(opened.results, *key), self.request.path.rpartition(".")[2]
        self.set_header("Content-Type", _CASE_TYPES[suffix])
        self.set_header("Content-Disposition", f'attachment; filename="case.{suffix}"')
        return case.to_pdf() if suffix == "pdf" else case.to_html().encode()


class Picture(Page):
    """A thumbnail."""

    def page(self) -> bytes:
        results, side = self.desk.shelf.results(self.source()), self.words.get("side")
        image_id = self.words.get("id", "")
        if side not in ("query", "reference"):
            raise ValueError("a picture is of a query or of a reference")
        try:
            jpeg = results.jpeg("query" if side == "query" else "reference", image_id)
        except KeyError:
            raise ValueError(f"there is no {side} {viz.label(image_id)!r} here") from None
        self.set_header("Content-Type", "image/jpeg")
        self.set_header("Cache-Control", "private, max-age=300")
        return jpeg


class Status(Page):
    """How far the run is, asked for by a page every few seconds."""

    def page(self) -> str:
        now = progress(self.source())
        self.set_header("Content-Type", "application/json")
        return json.dumps(
            {"text": "" if now is None else now.text, "going": now is not None and now.going}
        )


class Asset(Page):
    """The style and the script of the pages."""

    async def get(self, name: str = "") -> None:
        path = HERE / "static" / name
        self.set_header("Content-Type", _TYPES[path.suffix])
        self.finish(path.read_bytes())


class Missing(Page):
    """Any other address."""

    def page(self) -> str:
        self.set_status(404)
        return self.sorry("There is no such page here.")


def _key(text: str) -> Key:
    """A pair as forms name it: a JSON list of two ids."""
    try:
        query_id, reference_id = json.loads(text)
    except (ValueError, TypeError):
        raise ValueError("a pair is a list of two ids") from None
    return str(query_id), str(reference_id)


def _local(address: str) -> str:
    """An address of this server, "/" for any other."""
    return address if address.startswith("/") and not address.startswith(("//", "/\\")) else "/"


ROUTES = [
    (r"/", Home),
    (r"/menu", Menu),
    (r"/answers", Answers),
    (r"/pair", Pair),
    (r"/review", Review),
    (r"/decide", Decide),
    (r"/look", Look),
    (r"/duplicates", Duplicates),
    (r"/duplicates\.csv", DuplicatesFile),
    (r"/tune", Tune),
    (r"/report", Report),
    (r"/report\.html", ReportFile),
    (r"/case\.(?:html|pdf)", CaseFile),
    (r"/picture", Picture),
    (r"/status", Status),
    (r"/static/(app\.css|app\.js)", Asset),
]
