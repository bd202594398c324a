"""Answers that are empty, long, or of other scripts, and what fails: what a reader sees and a keyboard reaches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from page_helpers import DONE, Fake, Reply, Watched, ask, chunk, story, text_of, token

from autodeco_gguf.server.decide import seed_of

if TYPE_CHECKING:
    from playwright.sync_api import Page

BUSY = Reply([b'{"error": {"message": "queue full"}}'], status=503, kind="application/json")


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.id"))


# ---- text ----


def test_a_mark_stands_where_a_line_ends(fake: Fake, watched: Watched) -> None:
    texts = ["def f(x):\n", "\n", "\t", "x\n\ny", "<th", "ink>a\nb\n</thi", "nk>\n\n", "end"]
    fake.reply = lambda body: story(*map(token, texts))
    page = watched.open(fake.url)
    ask(page)
    assert text_of(page) == "".join(texts)  # marks are no text
    script = "all => all.map(t => t.innerHTML)"
    assert page.locator(".tokens .tok").evaluate_all(script) == [
        'def f(x):<i class="end"></i>\n', '<i class="end"></i>\n', "\t", 'x<i class="end"></i>\n<i class="end"></i>\ny',
        "&lt;th", "ink&gt;", 'a<i class="end"></i>\nb<i class="end"></i>\n&lt;/thi', "nk&gt;",
        '<i class="end"></i>\n<i class="end"></i>\n', "end",
    ]  # fmt: skip


def test_lines_behind_a_thought_stay_lines(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url)
    for texts, height in (["\n\n", "It is"], 1), (["It is\n\n  so"], 3), (["\n\n  x"], 3):
        fake.reply = lambda body, texts=texts: story(*map(token, ["<think>hm</think>", *texts]))  # type: ignore[misc]
        ask(page)
        rows = "all => new Set(all.flatMap(t => [...t.getClientRects()].map(r => r.y))).size"
        assert page.locator(".turn.assistant").last.locator(".tokens > .tok").evaluate_all(rows) == height


def test_what_nobody_sees_is_shown_by_its_number(fake: Fake, watched: Watched) -> None:
    fake.reply = lambda body: story(*map(token, ["\u200d", "\u202eab", "❤\ufe0f", 'é "\n']))
    page = watched.open(fake.url)
    ask(page)
    page.locator(".tokens").focus()
    for expected in ("\\u{200d}", "\\u{202e}ab", "❤\\u{fe0f}", 'é "\\n'):
        page.keyboard.press("ArrowRight")
        assert page.locator(".tip p code").inner_text() == expected


ARABIC, EMOJI = "مرحبا بالعالم، هذا نص طويل. 123 ", "👩\u200d👩\u200d👧🏳\ufe0f\u200d🌈😀"
CODE = "def f(x):\n\treturn a_very_long_name_without_a_place_to_break\n"


@pytest.mark.parametrize("text", [ARABIC, EMOJI, CODE], ids=["arabic", "emoji", "code"])
def test_scripts_and_code_stay_in_the_page(fake: Fake, watched: Watched, text: str) -> None:
    fake.reply = lambda body: story(*(token(text[i % len(text)]) for i in range(400)))
    page = watched.open(fake.url, viewport={"width": 360, "height": 640})
    ask(page, text.strip())
    assert text_of(page) == "".join(text[i % len(text)] for i in range(400))
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    box = "all => all.map(e => [e.scrollWidth - e.clientWidth, getComputedStyle(e).unicodeBidi])"
    assert page.locator(".tokens, .said").evaluate_all(box) == [[0, "plaintext"]] * 2  # each line in its own direction


def test_a_mark_turns_no_text_but_its_own(fake: Fake, watched: Watched) -> None:
    """A right-to-left override laid what follows to the left of it."""
    fake.reply = lambda body: story(*map(token, ["a ", "\u202ebc", " d", "\n", *"مرحبا"]))
    page = watched.open(fake.url)
    ask(page)
    lefts = page.locator(".tokens .tok").evaluate_all("all => all.map(t => t.getBoundingClientRect().left)")
    assert lefts[0] < lefts[1] < lefts[2]
    assert lefts[4] > lefts[5] > lefts[6]  # a script of its own direction has it


def test_an_empty_answer_says_so(fake: Fake, watched: Watched) -> None:
    reply = Reply([chunk(finish="stop"), DONE], gate=0)
    fake.reply = lambda body: reply
    page = watched.open(fake.url)
    words = "getComputedStyle(document.querySelector('.tokens'), '::before').content"
    page.fill("#prompt", "x")
    page.press("#prompt", "Enter")
    page.locator(".tokens").wait_for()
    assert page.evaluate(words) == "none"
    reply.go.set()
    page.locator(".again").wait_for()
    assert page.evaluate(words) == '"(no text)"'
    assert page.locator(".about").inner_text() == "0 tokens · by heads"


# ---- long answers ----


def test_a_long_answer_s_chart_has_means_and_pointing_draws_none_of_it_again(fake: Fake, watched: Watched) -> None:
    fake.reply = lambda body: story(*(token(" w", i % 2, 0.5) for i in range(3000)))
    page = watched.open(fake.url)
    ask(page)
    page.get_by_text("3,000 tokens, means of ").wait_for()
    line = page.locator(".chart path.t")
    levels = {float(y) for y in line.evaluate("p => p.getAttribute('d').match(/ [\\d.]+/g)")}
    assert len(levels) <= 3  # means of 0 and 1, not each of them
    line.evaluate("p => p.before = true")
    page.locator(".tokens").focus()
    places = set()
    for key in ("Home", "End", "ArrowLeft"):
        page.keyboard.press(key)
        places.add(page.locator(".chart .mark").get_attribute("x1"))
    assert len(places) == 3
    assert line.evaluate("p => p.before") is True
    page.keyboard.press("Escape")
    page.locator(".tip").wait_for(state="hidden")


def test_an_answer_that_is_gone_is_not_kept(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url)
    collector = page.context.new_cdp_session(page)
    ask(page)
    page.evaluate("window.gone = new WeakRef(document.querySelector('.tokens'))")
    page.click("#clear")
    page.wait_for_timeout(100)
    collector.send("HeapProfiler.collectGarbage")
    assert page.evaluate("gone.deref() === undefined")


# ---- the values of a token ----


def test_what_has_no_values_has_no_tip(fake: Fake, watched: Watched) -> None:
    fake.reply = lambda body: story(token("It"), {"text": " is"}, {"text": " so", "prob": 0.5})
    page = watched.open(fake.url)
    ask(page)
    tip, toks = page.locator(".tip"), page.locator(".tok")
    for point in ("hover", "click"):  # which pins nothing, so that the mouse goes on
        for place, shown in enumerate((True, False, True)):
            getattr(toks.nth(place), point if place else "hover")()
            assert (tip.is_visible(), page.locator(".tok.current").count()) == (shown, int(shown))
        page.keyboard.press("Escape")
    page.locator(".tokens").focus()
    page.keyboard.press("Home")
    for shown in (False, True):
        page.keyboard.press("ArrowRight")
        assert tip.is_visible() == shown
    assert tip.locator("dd").all_text_contents() == [*"\N{EN DASH}" * 4, "0.500"]


@pytest.mark.parametrize(("width", "height"), [(640, 360), (320, 300)])
def test_all_of_a_tip_is_in_a_low_window(fake: Fake, watched: Watched, width: int, height: int) -> None:
    others = [{"id": i, "text": " word", "logprob": -2.0, "prob": 0.125} for i in range(5)]
    fake.reply = lambda body: story(*(token(f"line {i}\n", logprob=-1.0, alternatives=others) for i in range(40)))
    page = watched.open(fake.url, viewport={"width": width, "height": height})
    ask(page)
    page.locator(".tokens").focus()
    for _ in range(40):
        page.keyboard.press("ArrowRight")
        box = page.locator(".tip").bounding_box()
        assert box is not None
        assert min(box["x"], box["y"]) >= 0
        assert box["x"] + box["width"] <= width
        assert box["y"] + box["height"] <= height


# ---- failures ----


def test_what_was_never_answered_is_not_sent_again(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url)
    ask(page, "first")
    fake.reply = lambda body: BUSY
    ask(page, "second")
    failed = page.locator(".turn.assistant").last
    assert (failed.locator(".answer").is_visible(), failed.locator(".about").inner_text()) == (False, "")
    assert failed.locator("button").count() == 2  # nothing to copy
    page.locator(".again").click()
    page.locator(".again").wait_for()
    assert [m["content"] for m in fake.bodies[-1]["messages"]][-1] == "second"
    fake.reply = lambda body: Reply([chunk(token("half"))])  # cut off, but there is something
    ask(page, "third")
    assert [m["content"] for m in fake.bodies[-1]["messages"]] == ["first", "Near the café 🙂.", "third"]
    ask(page, "fourth")
    assert [m["content"] for m in fake.bodies[-1]["messages"]][2:] == ["third", "half", "fourth"]
    watched.said[:] = [line for line in watched.said if "status of 503" not in line]


def test_what_was_stopped_before_its_first_word_is_not_sent_again(fake: Fake, watched: Watched) -> None:
    reply = Reply([chunk(token("late")), DONE], gate=0)
    fake.reply = lambda body: reply
    page = watched.open(fake.url)
    page.fill("#prompt", "first")
    page.press("#prompt", "Enter")
    page.click("#stop")
    page.locator(".again").wait_for()
    reply.go.set()
    stopped = page.locator(".turn.assistant")
    assert (stopped.locator(".answer").is_visible(), stopped.locator(".about").inner_text()) == (False, "stopped")
    assert stopped.get_by_role("button", name="Copy").count() == 0
    fake.reply = lambda body: story()
    ask(page, "second")
    sent = [[m["content"] for m in body["messages"]] for body in fake.bodies]  # the first may come after the second
    assert [contents for contents in sent if contents[-1] == "second"] == [["second"]]


def test_an_answer_comes_back_where_another_breaks_off(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url)
    ask(page, "first")
    fake.reply = lambda body: Reply([chunk(token("On")), b'data: {"error": {"message": "worker lost"}}\n\n'])
    page.click(".again")
    page.locator(".buttons + .error").wait_for()
    assert (text_of(page), page.locator(".turn").count()) == ("Near the café 🙂.", 2)
    assert "worker lost" in page.locator(".buttons + .error").inner_text()
    fake.reply = lambda body: story()
    ask(page, "second")
    assert [m["content"] for m in fake.bodies[-1]["messages"]] == ["first", "Near the café 🙂.", "second"]


def test_an_answer_comes_back_where_no_other_comes(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url)
    ask(page, "first")
    fake.reply = lambda body: BUSY
    for mode in ("entropy", "temperature"):
        page.click(".again")
        page.locator(".again").wait_for()
        assert (text_of(page), page.locator(".turn").count()) == ("Near the café 🙂.", 2)
        assert page.locator(".buttons + .error").all_inner_texts() == ["The server is busy: queue full"]
        page.select_option("#mode", mode)
    reply = Reply([chunk(token("late")), DONE], gate=0)
    fake.reply = lambda body: reply
    page.click(".again")
    page.locator("[aria-busy]").wait_for()
    assert not page.locator(".answer").first.is_visible()
    page.keyboard.press("Escape")
    page.locator(".again").wait_for()
    reply.go.set()
    assert (text_of(page), page.locator(".error").count()) == ("Near the café 🙂.", 0)
    fake.reply = lambda body: story(token("new"))
    ask(page, "second")
    assert [m["content"] for m in fake.bodies[-1]["messages"]] == ["first", "Near the café 🙂.", "second"]
    page.click(".again")
    page.locator(".again").wait_for()
    assert (text_of(page), page.locator(".turn").count()) == ("new", 4)
    watched.said[:] = [line for line in watched.said if "status of 503" not in line]


# ---- keyboard ----


def test_the_focus_is_not_lost_with_a_button(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url)
    ask(page)
    page.locator(".again").focus()
    page.keyboard.press("Enter")
    page.locator(".again").wait_for()
    assert focused(page) == "log"
    reply = Reply([chunk(token("Once")), DONE], gate=1)
    fake.reply = lambda body: reply
    page.fill("#prompt", "x")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator("#stop").wait_for()
    assert focused(page) == "stop"
    reply.go.set()
    page.locator(".again").wait_for()
    assert focused(page) == "send"


def test_escape_stops_what_is_compared(fake: Fake, watched: Watched) -> None:
    fake.reply = lambda body: Reply((chunk(token(f" {i}")) for i in range(5000)), pause=0.005)
    page = watched.open(fake.url)
    page.click("#show-compare")
    page.focus("#compare-run")
    page.keyboard.press("Enter")
    page.locator("#columns .tok").nth(5).wait_for()
    assert focused(page) == "compare-stop"
    page.keyboard.press("Escape")
    page.locator("#compare-run").wait_for()
    assert page.locator("#columns .about").all_text_contents()[0].endswith("stopped")
    assert focused(page) == "compare-run"


def test_escape_that_does_something_else_stops_nothing(fake: Fake, watched: Watched) -> None:
    reply = Reply([*(chunk(token(f" {i}")) for i in range(5)), DONE], gate=4)
    fake.reply = lambda body: reply
    page = watched.open(fake.url)
    for name, prompt, ended in (
        ("chat", "#prompt", ".again"),
        ("compare", "#compare-prompt", "#columns .buttons"),
    ):
        page.click(f"#show-{name}")
        page.fill(prompt, "x")
        page.click("#send" if name == "chat" else "#compare-run")
        answer = page.locator(f"#{name} .turn.assistant").last
        answer.locator(".tok").nth(3).wait_for()
        for event in ({"isComposing": True}, {"keyCode": 229}):
            page.dispatch_event(prompt, "keydown", {"key": "Escape", "bubbles": True, **event})
        answer.locator(".tokens").focus()
        page.keyboard.press("End")
        assert page.locator(".tip").is_visible()
        page.dispatch_event(prompt, "keydown", {"key": "Escape", "bubbles": True, "isComposing": True})
        assert page.locator(".tip").is_visible()
        page.keyboard.press("Escape")
        assert not page.locator(".tip").is_visible()
        page.wait_for_timeout(100)
        assert page.locator(ended).count() == 0
        page.keyboard.press("Escape")
        page.locator(ended).last.wait_for()
        assert "stopped" in answer.locator(".about").inner_text()
    reply.go.set()


def test_escape_stops_an_answer_on_which_the_mouse_rests(fake: Fake, watched: Watched) -> None:
    reply = Reply([*(chunk(token(f" {i}")) for i in range(5)), DONE], gate=4)
    fake.reply = lambda body: reply
    page = watched.open(fake.url)
    page.fill("#prompt", "x")
    page.press("#prompt", "Enter")
    page.locator(".tok").nth(3).hover()
    assert page.locator(".tip").is_visible()
    page.keyboard.press("Escape")
    page.locator(".again").wait_for()
    assert "stopped" in page.locator(".about").inner_text()
    assert not page.locator(".tip").is_visible()
    reply.go.set()


def test_a_setting_that_will_not_do_is_shown(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url)
    page.select_option("#heads", "off", force=True)
    for name, bad, good in (("temperature", "", "0.33"), ("seed", "abc", "5"), ("max-tokens", "0", "9")):
        for text in (bad, good):
            page.evaluate("settings.open = true")
            page.fill(f"#{name}", text)
            page.evaluate("settings.open = false")
            page.fill("#prompt", "x")
            page.press("#prompt", "Enter")
            if text == bad:
                assert (focused(page), page.evaluate("settings.open")) == (name, True)
                assert fake.bodies == []
            else:
                page.locator(".again").wait_for()
                page.click("#clear")
                assert str(fake.bodies.pop()[name.replace("-", "_")]) == good


def test_whatever_asks_minds_the_settings(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url)
    page.click("#settings summary")
    page.fill("#seed", "abc")
    page.locator("#examples button").first.click()
    assert (focused(page), page.locator(".turn").count()) == ("seed", 0)
    page.fill("#seed", "7")
    ask(page)
    page.select_option("#heads", "off")
    page.fill("#temperature", "")
    page.evaluate("settings.open = false")
    page.click(".again")
    assert (focused(page), page.locator(".turn").count(), len(fake.bodies)) == ("temperature", 2, 1)
    assert page.locator(".again").is_visible()


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("0", 0),
        ("4294967294", 2**32 - 2),
        ("4294967295", 0),
        ("9007199254740993", 2**53 + 1),
        ("9" * 19, int("9" * 19)),
    ],
)
def test_a_long_seed_is_the_one_that_the_server_takes(fake: Fake, watched: Watched, typed: str, sent: int) -> None:
    page = watched.open(fake.url)
    page.evaluate("settings.open = true")
    page.fill("#seed", typed)
    ask(page)
    page.click("#show-compare")
    page.get_by_label("Seed", exact=True).locator("visible=true").fill(typed)
    page.click("#compare-run")
    page.locator("#columns .buttons").nth(2).wait_for()
    assert [body["seed"] for body in fake.bodies] == [seed_of(sent)] * 4


def test_settings_that_a_browser_brings_back(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url)
    page.click("#settings summary")
    page.select_option("#heads", "off")
    page.fill("#temperature", "0.3")
    page.goto("about:blank")
    page.go_back()
    assert page.locator("#heads").input_value() == "off"
    assert (page.locator("#temperature").is_enabled(), page.locator("#top-p").is_enabled()) == (True, True)
    ask(page)
    assert {name: fake.bodies[0][name] for name in ("heads", "temperature", "top_p")} == {
        "heads": "off", "temperature": 0.3, "top_p": 1,
    }  # fmt: skip
