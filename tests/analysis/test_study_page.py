"""The page as a reader has it: links, tables, figures and the sentence on what to keep."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations

import numpy as np
import pytest
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from analysis.study import figures, html, report
from analysis.study.arms import BLIND, FULL
from analysis.study.bootstrap import Draws, Interval
from analysis.study.drawing import DARK, spread
from analysis.study.predictors import NAMES
from analysis.study.recommend import Recommendation, recommend
from analysis.study.results import Results
from analysis.study.verdict import Number, Verdict

ARMS = ("spare", "divprune", "greedy", "random", "vispruner", "trim", "spare + fold", "fastv")
KEEPS = (0.5, 0.11, 0.06)


def planted(lost, scenes=12, questions=4, models=("one",), skipped=()):
    """Results in which each cell loses the given share of questions, of every scene alike: those asked first."""
    cells = ((FULL, 1.0), (BLIND, 0.0), *lost)
    units = tuple((model, "objects", str(i)) for model in models for i in range(scenes))
    owner = np.repeat(np.arange(len(units)), questions)
    place = np.tile(np.arange(questions), len(units))
    shares = np.array([0, 0.75, *lost.values()])
    score = (place >= np.round(shares * questions)[:, None]).astype(float)
    tokens = np.tile([[max(144 * keep, 1.0)] for _, keep in cells], len(units))
    late = np.arange(len(units)) % scenes >= scenes // 2
    for i in [i for i, (arm, _) in enumerate(cells) if arm in skipped]:
        tokens[i, late] = np.nan
        score[i, late[owner]] = np.nan
    noise = np.random.default_rng(0).random((len(NAMES), *tokens.shape))
    predictors = {
        name: 1.2 + 0.1 * values + shares[:, None] for name, values in zip(NAMES, noise, strict=True)
    }
    skill = np.array(["count", "colour"])[place % 2]
    blind = frozenset(arm for arm, _ in lost) - {"fastv", "spare + fold"}
    return Results(cells, units, owner, skill, score, tokens, predictors, blind)


def verdicts(count):
    bars = {"one, objects": Interval(-0.0004, -0.0005, -0.0003), "two, objects": Interval(0.3, -0.1, 0.7)}
    number = Number("spare − divprune", Interval(0.2, 0.1, 0.3), bars)
    return [
        Verdict(
            f"Question {i}?",
            verdict,
            "It is +20.0 [+10.0, +30.0] points.",
            "A rule.",
            (number,),
            1,
            "In words.",
        )
        for i, verdict in zip(
            range(count), ("yes", "no", "partly", "not settled", "it depends") * 2, strict=False
        )
    ]


class Page(HTMLParser):
    """What a browser would find: elements with their attributes and the text inside, and how deep they lie."""

    VOID = frozenset(("meta", "br", "use", "img"))

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.found = [], []
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {[one['tag'] for one in self.open]}"

    def handle_starttag(self, tag, attrs):
        one = {"tag": tag, "text": "", "inside": [o["tag"] for o in self.open], **dict(attrs)}
        self.found.append(one)
        if tag not in self.VOID:
            self.open.append(one)

    def handle_startendtag(self, tag, attrs):
        self.found.append({"tag": tag, "text": "", "inside": [o["tag"] for o in self.open], **dict(attrs)})

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open[-1]["tag"] == tag, f"</{tag}> closes <{self.open[-1]['tag']}>"
            self.open.pop()

    def handle_data(self, data):
        for one in self.open:
            one["text"] += data

    def all(self, tag):
        return [one for one in self.found if one["tag"] == tag]


LOST = {(arm, keep): i % 4 / 4 for i, arm in enumerate(ARMS) for keep in KEEPS} | {("trim", 0.06): 0.75}


def written(results, folder, count=5, own=None, confirmed=()):
    draws = Draws(results, resamples=50)
    drawn = figures.draw(draws, folder)
    path = folder / "report.html"
    html.write(
        draws, report.summary(draws), verdicts(count), drawn, path, confirmed, report.headline(results), own
    )
    return path.read_text()


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    results = planted(LOST, models=("one", "two"), skipped=("fastv",))
    return written(results, tmp_path_factory.mktemp("page"), confirmed=verdicts(5))


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


# ---- the page


def test_every_link_leads_somewhere_and_every_id_is_one_of_a_kind(page, text):
    ids = [one["id"] for one in page.found if "id" in one]
    assert len(ids) == len(set(ids)) > 10
    linked = [one["href"] for one in page.all("a")]
    assert {one["id"] for one in page.all("h2")} == {link[1:] for link in linked}
    named = [one["aria-labelledby"] for one in page.found if "aria-labelledby" in one]
    drawn = re.findall(r"url\(#([^)]+)\)", text) + [
        one["xlink:href"][1:] for one in page.all("use") if one["xlink:href"].startswith("#")
    ]
    assert drawn
    assert {*(link[1:] for link in linked), *named, *drawn} <= set(ids)


def test_nothing_is_loaded_from_elsewhere(page, text):
    loaded = [one.get(name, "") for one in page.found for name in ("src", "href", "xlink:href")]
    assert all(not value or value.startswith(("#", "data:")) for value in loaded)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_date_version_and_command_come_before_the_verdicts(page, text):
    head = text[: text.index('id="verdicts"')]
    assert re.search(r'<time datetime="\d{4}-\d\d-\d\d">', head)
    assert f"cssp {html.cssp.__version__}" in head
    assert "<code>python -m analysis figures</code>" in head


def test_the_command_is_the_one_that_was_typed(monkeypatch):
    typed = ["python3", "-X", "dev", "-m", "analysis", "study", "--questions", "my file"]
    monkeypatch.setattr(html.sys, "orig_argv", typed)
    assert html.command() == "python -m analysis study --questions 'my file'"


def test_tables_have_headings_with_scope_and_a_box_of_their_own(page):
    tables = page.all("table")
    assert len(tables) >= 9
    assert all("aria-labelledby" in one for one in tables)
    assert all(one["scope"] in ("col", "row") for one in page.all("th"))
    boxes = [one for one in page.all("div") if one.get("class") == "scroll"]
    assert len(boxes) == len(tables)
    assert all((one["role"], one["tabindex"]) == ("region", "0") for one in boxes)
    assert sum("sortable" in one.get("class", "") for one in tables) >= 5
    heads = [one for one in page.all("th") if one["scope"] == "row"]
    assert len(heads) == sum("tbody" in one["inside"] for one in page.all("tr"))


def rows_of(page):
    """Rows of all tables, as lists of their cells."""
    rows = []
    for one in page.found:
        if one["tag"] == "tr":
            rows.append([])
        if one["tag"] in ("td", "th"):
            rows[-1].append(one)
    return rows


def test_zero_has_no_colour_of_warning(page):
    shades = {"lost", "gained", "against"}
    coloured = [one for one in page.all("td") if shades & set(one.get("class", "").split())]
    zero = [one for one in page.all("td") if re.fullmatch(r"[-−+]?0(\.0+)?( .*)?", one["text"].strip())]
    assert zero
    assert {one["class"] for one in coloured} >= {"lost"}
    assert not [one for one in zero if one in coloured]
    assert not any(re.match(r"[-−+]0(\.0+)?(?![\d.])", one["text"]) for one in page.all("td"))


def test_a_cell_on_the_other_side_of_zero_is_marked_unless_it_is_written_as_zero():
    bars = {"one, objects": Interval(-0.2, -0.3, -0.1), "two, objects": Interval(-0.004, -0.0045, -0.0035)}
    (first, *_) = verdicts(1)
    number = replace(first.numbers[0], strata=bars)
    assert number.against == list(bars)
    assert html.written(bars["two, objects"], "{:+.2f}") == "0.00 [0.00, 0.00]"


def test_counts_stand_beside_what_they_count(page):
    told = {
        row[0]["text"].split(" ")[0]: row[-1]["text"] for row in rows_of(page) if len(row) == 3 + len(KEEPS)
    }
    assert told["trim"] == "48 / 12"
    assert told["fastv"] == "24 / 6"
    (head,) = [
        row for row in rows_of(page) if row[0]["text"] == "pruner" and row[1]["text"].startswith("colour")
    ]
    assert [cell["text"] for cell in head[1:3]] == ["colour24 / 12", "count24 / 12"]
    captions = [one["text"] for one in page.all("figcaption")]
    assert captions
    assert all("48 questions about 12 images, put to 2 models" in one for one in captions)


@pytest.mark.parametrize("count", [0, 1, 9])
def test_any_number_of_verdicts_and_arms_gives_a_page(count, tmp_path):
    arms = (
        {("spare", 0.5): 0.0}
        if count < 9
        else {(arm, keep): 0.25 for arm in html.ARMS for keep in (0.5, 0.02)}
    )
    text = written(planted(arms, scenes=3), tmp_path, count)
    page = Page(text)
    assert len(page.all("article")) == count
    assert not [pair for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL) for pair in collisions(svg)]
    assert not any(
        "nan" in one["text"].lower() for one in page.found if one["tag"] in ("td", "p", "figcaption")
    )
    assert {one["href"][1:] for one in page.all("a")} == {one["id"] for one in page.all("h2")}


# ---- figures


def boxes(svg):
    """The boxes (left, top, right, bottom) of all texts of a figure, from their places, sizes and anchors."""
    found = []
    for style, transform, words in re.findall(
        r'<text style="([^"]*)"[^>]*?transform="([^"]*)"[^>]*>([^<]*)</text>', svg
    ):
        size = float(re.search(r"([\d.]+)px", style)[1])
        anchor = (re.search(r"text-anchor: (\w+)", style) or [0, "start"])[1]
        kind, *numbers = re.findall(r"[a-z]+|-?[\d.]+", transform)
        turn, x, y = map(float, numbers if kind == "rotate" else [0, *numbers])
        words = words.replace("&#x2212;", "−")
        box = TextPath((0, 0), words, size=size, prop=FontProperties()).get_extents()
        width, up, down = box.width, box.y1, -box.y0
        left = {"start": 0, "middle": -width / 2, "end": -width}[anchor]
        if turn:
            found.append((words, (x - up, y - left - width, x + down, y - left)))
        else:
            found.append((words, (x + left, y - up, x + left + width, y + down)))
    return found


def collisions(svg):
    slack = 0.3  # points, of glyphs that touch
    return [
        (a, b)
        for (a, p), (b, q) in combinations(boxes(svg), 2)
        if min(p[2], q[2]) - max(p[0], q[0]) > slack and min(p[3], q[3]) - max(p[1], q[1]) > slack
    ]


def test_no_two_labels_of_a_figure_overlap_and_each_is_described(text):
    svgs = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(svgs) >= 8
    for svg in svgs:
        assert len(boxes(svg)) == len(re.findall(r"<text ", svg)) > 5
        assert collisions(svg) == []
        assert len(re.search(r'aria-label="([^"]*)"', svg)[1]) > 40


def test_curves_that_end_in_one_point_have_labels_apart(tmp_path):
    arms = list(figures.HIGHLIGHTED)
    draws = Draws(planted({(arm, keep): 0.25 for arm in arms for keep in KEEPS}), resamples=20)
    with figures.plt.rc_context(figures.STYLE):
        (one,) = figures.retained_accuracy(draws)
    names = [words for words, _ in boxes(one.svg)]
    assert set(arms) <= set(names)
    assert collisions(one.svg) == []


def test_colours_of_figures_follow_the_page(text):
    for light, dark in DARK.items():
        name = f"--c{light[1:]}"
        assert f"{name}: {light};" in text
        assert f"{name}: {dark};" in text
    svgs = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    used = set(re.findall(r"(?<!, )#[0-9a-f]{6}\b", svgs))
    assert not used & set(DARK)
    assert not re.search(r"(fill|stroke): (black|#000000)", svgs)


def test_labels_move_as_little_as_they_must():
    assert spread([], 1, 0, 9).tolist() == []
    assert spread([5, 1, 3], 1, 0, 9).tolist() == [5, 1, 3]
    assert spread([4, 4, 4], 1, 0, 9).tolist() == [3, 4, 5]
    assert spread([0, 0, 8], 1, 0, 9).tolist() == [0, 1, 8]
    assert spread([9, 9], 1, 0, 9).tolist() == [8, 9]
    assert spread([5, 5, 5], 4, 0, 4).tolist() == [0, 2, 4]
    rng = np.random.default_rng(0)
    wanted = rng.random(6) * 4
    found = spread(wanted, 0.5, 0, 4)
    order = np.argsort(wanted)
    assert (np.diff(found[order]) > 0.5 - 1e-9).all()
    for _ in range(300):  # no other places that keep apart lie nearer
        other = found[order] + rng.normal(0, 0.1, 6)
        if (np.diff(other) >= 0.5).all() and other.min() >= 0 and other.max() <= 4:
            assert ((other - wanted[order]) ** 2).sum() >= ((found - wanted) ** 2).sum()


# ---- what to keep


def kept(lost, saved=None, **more):
    draws = Draws(planted(lost, **more), resamples=200)
    return recommend(draws, saved)


PLANTED = {("spare", 0.5): 0.0, ("spare", 0.22): 0.0, ("divprune", 0.22): 0.25, ("random", 0.06): 0.5}


def test_the_fewest_tokens_of_those_that_certainly_lose_little():
    found = kept(PLANTED, {("spare", 0.22): 0.0123}, scenes=200)
    assert found.sentence == (
        "Keep 22 % with spare: loses 0.0 points [0.0, 1.5], saves 12.3 ms a question (measured on this machine)."
    )
    assert "Of the 4 pairs" in found.rule


def test_answers_that_never_changed_prove_no_more_than_their_number():
    """With 100 images nothing rules out a loss of 3 points, even where all answers are the same."""
    found = kept(PLANTED, scenes=100)
    assert not found.sure
    assert found.sentence.startswith(
        "No pruner is certain to lose less than 2 points. The nearest keeps 22 % with spare"
    )
    assert "[0.0, 3.0]" in found.sentence


def test_a_loss_that_is_certain_is_not_recommended():
    found = kept({("spare", 0.22): 0.25, ("divprune", 0.5): 0.5}, {("spare", 0.22): -0.002}, scenes=200)
    assert found.sentence == (
        "No pruner is certain to lose less than 2 points. The nearest keeps 22 % with spare: loses 25.0 points [25.0, 25.0], "
        "takes 2 ms more a question (measured on this machine)."
    )


def test_few_images_recommend_nothing():
    found = kept(PLANTED, scenes=3)
    assert found.sentence == (
        "Too few images to recommend a pruner: 3, and intervals need 8. The smallest loss so far is at 22 % with spare: "
        "loses 0.0 points (no interval)."
    )


def test_a_gain_is_told_as_one():
    found = Recommendation(("spare", 0.5), Interval(-0.031, -0.05, -0.012), float("nan"), True, 2, 50)
    assert found.sentence == "Keep 50 % with spare: gains 3.1 points [1.2, 5.0]."


def test_the_more_pairs_are_compared_the_wider_the_interval():
    rng = np.random.default_rng(1)
    lost = {("spare", 0.5): 0.0} | {(arm, 0.22): 0.5 for arm in html.ARMS}
    results = planted(lost, scenes=60)
    noisy = replace(results, score=abs(results.score - (rng.random(results.score.shape) < 0.1)))
    alone = replace(noisy, cells=noisy.cells[:3], score=noisy.score[:3], tokens=noisy.tokens[:3])
    one, many = (recommend(Draws(part, resamples=400)) for part in (alone, noisy))
    assert one.cell == many.cell == ("spare", 0.5)
    assert many.lost.high - many.lost.value > 1.3 * (one.lost.high - one.lost.value)


def test_what_did_not_run_on_every_image_is_not_recommended():
    found = kept({("fastv", 0.06): 0.0, ("spare", 0.5): 0.0}, scenes=200, skipped=("fastv",))
    assert found.cell == ("spare", 0.5)
    assert kept({("fastv", 0.06): 0.0}, scenes=20, skipped=("fastv",)) is None


def test_the_sentence_comes_first_with_its_rule(tmp_path):
    results = planted(PLANTED, scenes=200)
    own = recommend(Draws(results, resamples=50), {("spare", 0.22): 0.01})
    text = written(results, tmp_path, 1, own)
    page = Page(text)
    first = next(one for one in page.found if one["tag"] == "p")
    assert first["text"] == own.sentence
    assert text.index(own.sentence) < text.index("<b>Rule.</b>") < text.index("<nav")
    assert "What pruning costs on your questions" in page.all("h1")[0]["text"]
