"""What a person does with the page: stop, repeat, copy, scroll, set, compare; on a small screen, in the dark."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from page_helpers import DONE, STORY, Fake, Reply, Watched, ask, chunk, seed_of, story, text_of, token

if TYPE_CHECKING:
    from playwright.sync_api import Page


def error_of(page: Page) -> str:
    return page.locator(".turn.assistant").last.locator(".error").inner_text()


# ---- ends ----


def test_stop_keeps_the_text_and_leaves_the_server(fake: Fake, watched: Watched) -> None:
    fake.reply = lambda body: Reply((chunk(token(f" {i}")) for i in range(5000)), pause=0.005)
    page = watched.open(fake.url)
    page.fill("#prompt", "count")
    page.press("#prompt", "Enter")
    page.locator(".tok").nth(5).wait_for()
    page.click("#stop")
    page.locator(".again").wait_for()
    assert text_of(page).startswith(" 0 1 2 3 4 5")
    assert "stopped" in page.locator(".about").inner_text()
    assert page.locator(".error").count() == 0
    assert fake.cut.wait(5)
    assert page.locator("#send").is_visible()
    fake.reply = lambda body: story()
    ask(page, "go on")
    assert fake.bodies[1]["messages"][1]["content"].startswith(" 0 1 2")


def test_regenerate_asks_again_with_another_seed(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url)
    ask(page)
    page.click(".again")
    page.locator(".again").wait_for()
    first, second = fake.bodies
    assert first["messages"] == second["messages"]
    assert first["seed"] != second["seed"]
    assert page.locator(".turn").count() == 2
    page.locator(".buttons button").first.click()
    assert page.locator("#seed").input_value() == seed_of(page) == str(second["seed"])
    page.click(".again")
    page.locator(".again").wait_for()
    assert fake.bodies[2]["seed"] == second["seed"]


def failure(status: int, **error: Any) -> Reply:
    return Reply([json.dumps({"error": error}).encode()], status=status, kind="application/json")


FAILURES = [
    (failure(400, message="the prompt has 5000 tokens, the context 4096"), "the prompt has 5000 tokens"),
    (failure(401, message="invalid key"), "The server wants an API key: see Settings."),
    (failure(503, message="queue full"), "The server is busy: queue full"),
    (Reply([b"<h1>oops</h1>"], status=502, kind="text/html"), "The server answered with status 502."),
    (Reply([b'data: {"error": {"message": "worker lost", "type": "x"}}\n\n']), "worker lost"),
    (Reply([b"data: {oops\n\n"]), "The server sent something that is no JSON."),
    (Reply([chunk(token("Once"))]), "The stream ended before the answer was complete."),
]


def test_errors_are_shown_in_words(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url)
    for reply, words in FAILURES:
        fake.reply = lambda body, reply=reply: reply  # type: ignore[misc]
        ask(page)
        assert words in error_of(page)
    watched.said[:] = [line for line in watched.said if "status of" not in line]  # which Chromium says of itself


def test_a_server_that_makes_no_sense_is_left(fake: Fake, watched: Watched) -> None:
    fake.reply = lambda body: Reply([b"data: {oops\n\n", *(chunk(token(f" {i}")) for i in range(2000))], pause=0.005)
    page = watched.open(fake.url)
    ask(page)
    assert error_of(page) == "The server sent something that is no JSON."
    assert fake.cut.wait(5)


def test_a_server_that_is_gone_is_an_error_in_words(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url)
    page.context.set_offline(True)
    ask(page)
    assert error_of(page) == "The server cannot be reached. Is it still running?"
    watched.said[:] = [line for line in watched.said if "ERR_INTERNET_DISCONNECTED" not in line]


def test_a_key_that_no_header_can_have_is_named(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url)
    page.click("#settings summary")
    page.fill("#key", "ключ")
    ask(page)
    assert error_of(page) == "The API key has characters that cannot be sent."
    assert fake.bodies == []


def test_an_error_in_the_middle_keeps_the_text(fake: Fake, watched: Watched) -> None:
    lost = b'data: {"error": {"message": "127.0.0.1:50052: worker lost"}}\n\n'
    fake.reply = lambda body: Reply([chunk(token("Once")), lost, chunk(token(" never"))])
    page = watched.open(fake.url)
    ask(page)
    assert (text_of(page), error_of(page)) == ("Once", "127.0.0.1:50052: worker lost")


# ---- copying ----


def test_copy_without_a_clipboard(fake: Fake, watched: Watched) -> None:
    thought = ["<think>", "hm", "</think>", "\n\n", "It", " is <b>é🙂</b>."]
    fake.reply = lambda body: story(*map(token, thought))
    page = watched.open(fake.url.replace("127.0.0.1", "page.test"))
    assert page.evaluate("[isSecureContext, navigator.clipboard]") == [False, None]
    ask(page)
    page.get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Copied").wait_for()
    page.focus("#prompt")
    page.keyboard.press("Control+V")
    assert page.locator("#prompt").input_value() == "It is <b>é🙂</b>."


def test_copy_of_thoughts_alone_copies_them(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url.replace("127.0.0.1", "page.test"))
    for texts, copied in ((["<think>", "hm"], ["<think>hm"]), ([], [])):
        fake.reply = lambda body, texts=texts: Reply([*(chunk(token(t)) for t in texts), DONE])  # type: ignore[misc]
        ask(page)
        found = []
        for button in page.locator(".turn.assistant").last.get_by_role("button", name="Copy").all():
            button.click()
            page.get_by_role("button", name="Copied").wait_for()
            page.fill("#prompt", "")
            page.focus("#prompt")
            page.keyboard.press("Control+V")
            found.append(page.locator("#prompt").input_value())
        assert found == copied


def test_what_is_copied_of_marks(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url)
    for text, copied in (
        ("\n<think>\nhm\n</think>\n\nIt <think> is", "It <think> is"),
        ("so\n</think>\n\nIt", "It"),
        ("</think>\n\nIt", "It"),
        ("Models write `<think>` before they answer.\nThat is all.",) * 2,
        ("A thought ends with </think>, then comes text.",) * 2,
        ("It is\n```\n<think>\nhm\n</think>\n```\nso.",) * 2,
        ("hm\n" * 500_000,) * 2,
    ):
        assert page.evaluate("async text => (await import('/ui.js')).spoken(text)", text) == copied


def test_copy_that_nothing_allows_says_what_to_do(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url.replace("127.0.0.1", "page.test"))
    ask(page)
    page.evaluate("document.execCommand = () => false")
    page.get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Select the text and press Ctrl-C").wait_for()


# ---- scrolling ----


def test_the_view_stays_where_the_reader_is(fake: Fake, watched: Watched) -> None:
    reply = Reply([*(chunk(token(f"line {i}\n")) for i in range(400)), DONE], pause=0.004, gate=120)
    fake.reply = lambda body: reply
    page = watched.open(fake.url)
    page.fill("#prompt", "count")
    page.press("#prompt", "Enter")
    page.locator(".tok").nth(119).wait_for()

    def place() -> tuple[float, float]:
        top, rest = page.evaluate("[log.scrollTop, log.scrollHeight - log.scrollTop - log.clientHeight]")
        return top, rest

    assert place()[1] < 2  # it follows
    page.mouse.move(300, 300)
    reply.go.set()  # the rest comes while the wheel turns
    page.mouse.wheel(0, -30)
    page.locator(".tok").nth(250).wait_for()
    there = place()
    assert there[1] > 30
    page.locator(".tok").nth(300).wait_for()
    assert place()[0] == there[0]
    page.locator("#newest").click()
    page.locator(".again").wait_for()
    assert place()[1] < 2


OVER = """() => {
  const over = newest.getBoundingClientRect();
  const others = document.querySelectorAll("#settings :is(input, select, textarea), #prompt, #send, #note");
  return [...others].filter((one) => {
    const r = one.getBoundingClientRect();
    return r.width && r.left < over.right && r.right > over.left && r.top < over.bottom && r.bottom > over.top;
  }).map((one) => one.id);
}"""


@pytest.mark.parametrize("width", [360, 1000])
def test_the_way_to_the_newest_line_lies_over_nothing_to_be_clicked(width: int, fake: Fake, watched: Watched) -> None:
    fake.reply = lambda body: story(*[token(f" word{i}") for i in range(400)])
    page = watched.open(fake.url, viewport={"width": width, "height": 700})
    ask(page)
    page.mouse.move(width / 2, 250)
    page.mouse.wheel(0, -900)
    page.locator("#newest").wait_for()
    assert page.evaluate(OVER) == []
    page.fill("#prompt", "\n".join(map(str, range(12))))
    assert page.evaluate(OVER) == []
    page.click("#settings summary")
    assert page.evaluate(OVER) == []


TOUCH = """([type, y]) => log.dispatchEvent(
  new TouchEvent(type, { touches: [new Touch({ identifier: 1, target: log, clientY: y })] }))"""


@pytest.mark.parametrize("way", ["PageUp", "Home", "ArrowUp", "down", "up"])
def test_a_key_or_a_finger_leaves_the_newest_line(fake: Fake, watched: Watched, way: str) -> None:
    """At once: in a fast answer it never comes to a smaller scrollTop."""
    reply = Reply([*(chunk(token(f"line {i}\n")) for i in range(120)), DONE], gate=60)
    fake.reply = lambda body: reply
    page = watched.open(fake.url)
    page.fill("#prompt", "count")
    page.press("#prompt", "Enter")
    page.locator(".tok").nth(59).wait_for()
    if way in ("down", "up"):
        page.evaluate(TOUCH, ["touchstart", 200])
        page.evaluate(TOUCH, ["touchmove", 220 if way == "down" else 180])
    else:
        page.dispatch_event("#log", "keydown", {"key": way})
    reply.go.set()
    page.locator(".again").wait_for(state="attached")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    assert page.locator("#newest").is_visible() == (way != "up")


def test_a_screen_of_a_few_lines_scrolls_as_a_whole(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url, viewport={"width": 320, "height": 256})
    assert page.evaluate("[scrollY, log.clientHeight > 150]") == [0, True]
    reply = Reply([*(chunk(token(f"line {i}\n")) for i in range(120)), DONE], gate=60)
    fake.reply = lambda body: reply
    page.fill("#prompt", "count")
    page.press("#prompt", "Enter")
    page.locator(".tok").nth(59).wait_for()

    def place() -> tuple[float, float]:
        page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        top, rest = page.evaluate("[scrollY, document.documentElement.scrollHeight - innerHeight - scrollY]")
        return top, rest

    assert place()[1] < 2  # it follows
    page.mouse.move(100, 100)
    page.mouse.wheel(0, -300)
    page.locator("#newest").wait_for()
    there = place()
    assert there[1] > 100
    reply.go.set()
    page.locator(".again").wait_for()
    assert place()[0] == there[0]
    page.mouse.click(*page.evaluate("(({ x, y }) => [x + 9, y + 9])(newest.getBoundingClientRect())"))  # on the screen
    assert place()[1] < 2
    assert page.locator("#newest").is_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


# ---- keys ----


def test_enter_of_an_input_method_is_not_sent(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url)
    page.fill("#prompt", "にほん")
    for event in ({"isComposing": True}, {"keyCode": 229}, {"shiftKey": True}):
        page.dispatch_event("#prompt", "keydown", {"key": "Enter", "bubbles": True, **event})
    page.press("#prompt", "Shift+Enter")
    page.keyboard.insert_text("x")
    assert page.locator("#prompt").input_value() == "にほん\nx"
    assert fake.bodies == []
    page.press("#prompt", "Enter")
    page.locator(".again").wait_for()
    assert fake.bodies[0]["messages"][0]["content"] == "にほん\nx"
    page.fill("#prompt", "  \n ")
    page.press("#prompt", "Enter")
    assert len(fake.bodies) == 1


# ---- settings ----


def test_settings_say_who_decides(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url)
    page.click("#settings summary")
    page.fill("#seed", "7")
    page.fill("#max-tokens", "20")
    page.fill("#system", "Be kind.")
    page.fill("#key", "K")
    for heads, fixed in (("temperature", {"top_p": 0.5}), ("top_p", {"temperature": 0.3}), ("off", None)):
        page.select_option("#heads", heads)
        for name in ("temperature", "top-p"):
            if page.locator(f"#{name}").is_enabled():
                page.fill(f"#{name}", {"temperature": "0.3", "top-p": "0.5"}[name])
        ask(page)
        body = fake.bodies[-1]
        given = {name: body[name] for name in ("temperature", "top_p") if name in body}
        assert (body["heads"], given) == (heads, fixed or {"temperature": 0.3, "top_p": 0.5})
    assert (body["seed"], body["max_tokens"]) == (7, 20)
    assert body["messages"][0] == {"role": "system", "content": "Be kind."}
    assert fake.keys == ["Bearer K"] * 3


def test_t_and_p_may_be_whatever_the_server_takes(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url)
    page.click("#settings summary")
    page.select_option("#heads", "off")
    taken = [(0.125, 0.001), (1e6, 0.875)]
    for t, p in taken:
        page.fill("#temperature", str(t))
        page.fill("#top-p", str(p))
        ask(page)
    page.click("#show-compare")
    page.select_option("#compare-fields select", "numbers")
    for pair, (t, p) in enumerate(taken, 1):
        page.get_by_label(f"T of pair {pair}").fill(str(t))
        page.get_by_label(f"P of pair {pair}").fill(str(p))
    page.click("#compare-run")
    page.locator("#columns .buttons").nth(2).wait_for()
    asked = [(body["temperature"], body["top_p"]) for body in fake.bodies if "top_p" in body]
    assert sorted(asked) == sorted(taken * 2)


def test_a_server_with_a_key_is_asked_with_it(fake: Fake, watched: Watched) -> None:
    fake.key = "K"
    page = watched.open(fake.url)
    page.get_by_text("The server wants an API key: give it in the settings.").wait_for()
    page.click("#settings summary")
    page.fill("#key", "K")
    page.press("#key", "Tab")
    page.locator("#note").wait_for(state="hidden")
    assert page.locator("#model").inner_text() == "demo"
    watched.said[:] = [line for line in watched.said if "status of 401" not in line]


def test_a_model_without_heads_is_named_as_such(fake: Fake, watched: Watched) -> None:
    fake.props = {"model": "plain", "heads": []}
    page = watched.open(fake.url)
    page.get_by_text("This model has no heads").wait_for()
    assert page.locator("#model").inner_text() == "plain"


# ---- side by side ----


def test_commands_side_by_side(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url)
    page.click("#show-compare")
    page.fill("#compare-prompt", "Why?")
    page.click("#compare-run")
    page.locator("#columns .buttons").nth(2).wait_for()
    asked = {body["messages"][0]["content"] for body in fake.bodies}
    assert asked == {"Why?", "Why? Please be as predictable as possible.", "Why? Please be as creative as possible."}
    assert len({body["seed"] for body in fake.bodies}) == 1
    assert {body["heads"] for body in fake.bodies if "heads" in body} == set()
    assert page.locator("#columns h2").all_text_contents() == ["plain", "low diversity", "high diversity"]
    assert page.locator("#columns .chart svg").count() == 3
    page.locator("#columns .tok").nth(6).hover()
    assert page.locator(".tip").is_visible()


def test_heads_against_numbers(fake: Fake, watched: Watched) -> None:
    fake.reply = lambda body: failure(503, message="queue full") if body.get("temperature") == 1 else story()
    page = watched.open(fake.url)
    page.click("#show-compare")
    page.select_option("#compare-fields select", "numbers")
    page.click("#compare-run")
    page.locator("#compare-stop").wait_for(state="hidden")
    assert page.locator("#columns .buttons").count() == 2  # nothing to copy
    given = sorted((body.get("heads", ""), body.get("temperature"), body.get("top_p")) for body in fake.bodies)
    assert given == [("", None, None), ("off", 0.7, 0.9), ("off", 1, 1)]
    assert page.locator("#columns h2").all_text_contents() == ["heads", "T = 0.7, P = 0.9", "T = 1, P = 1"]
    assert page.locator("#columns .error").all_text_contents() == ["The server is busy: queue full"]
    watched.said[:] = [line for line in watched.said if "status of" not in line]


# ---- for everybody ----


@pytest.mark.parametrize(("scheme", "width"), [("light", 360), ("dark", 1000)])
def test_nothing_serious_for_axe(fake: Fake, watched: Watched, scheme: Any, width: int) -> None:
    from axe_playwright_python.sync_playwright import Axe

    def check(where: str) -> None:
        found = Axe().run(page).response["violations"]
        serious = [(v["id"], [n["html"] for n in v["nodes"]]) for v in found if v["impact"] in ("serious", "critical")]
        assert serious == [], where
        assert page.evaluate("document.documentElement.scrollWidth") <= width, where

    fake.reply = lambda body: story(token("<think>"), token("hm"), token("</think>"), *map(tinted, range(11)))
    page = watched.open(fake.url, color_scheme=scheme, viewport={"width": width, "height": 700})
    check("empty")
    ask(page)
    page.locator(".tok").nth(6).hover()
    check("answer")
    box = page.locator(".tip").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    page.click("#settings summary")
    check("settings")
    page.click("#show-compare")
    page.click("#compare-run")
    page.locator("#columns .buttons").nth(2).wait_for()
    check("compare")


def tinted(i: int) -> dict[str, Any]:
    """A token of every colour; the wide character has no room to break."""
    others = [{"id": 1, "text": "w" * 60, "logprob": -1.0, "prob": 0.5}]
    return token(f" {'long' * 20 if i == 5 else 'word'}", i / 5, 1 - i / 10, alternatives=others)


def test_dark_and_light_by_a_switch(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url, color_scheme="light", reduced_motion="reduce")
    back = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(back)
    page.get_by_role("button", name="Dark or light").click()
    dark = page.evaluate(back)
    assert light != dark
    page.reload()
    assert page.evaluate(back) == dark
    page.get_by_role("button", name="Dark or light").click()
    assert page.evaluate(back) == light


def test_nothing_moves_for_those_who_do_not_want_it(fake: Fake, watched: Watched) -> None:
    reply = Reply([chunk(token("Once")), DONE], gate=1)
    fake.reply = lambda body: reply
    caret = "getComputedStyle(document.querySelector('.turn[aria-busy] .tokens'), '::after').animationName"
    for motion, name in (("reduce", "none"), ("no-preference", "blink")):
        page = watched.open(fake.url, reduced_motion=motion)
        page.fill("#prompt", "x")
        page.press("#prompt", "Enter")
        page.locator(".tok").wait_for()
        assert page.evaluate(caret) == name
    reply.go.set()


def test_colours_are_kept_where_the_system_has_its_own(fake: Fake, watched: Watched) -> None:
    style = "(e, [part, name]) => getComputedStyle(e, part)[name]"
    page = watched.open(fake.url, forced_colors="active")
    ask(page)
    backs = page.locator(".tok").evaluate_all("all => all.map(t => getComputedStyle(t).backgroundColor)")
    assert len(set(backs)) == len(STORY)
    assert "gradient" in page.locator(".scale i").evaluate(style, [None, "backgroundImage"])
    keys = [page.locator(f".key.{name}").evaluate(style, ["::before", "borderTopColor"]) for name in "tp"]
    assert keys[0] != keys[1]
    page.locator(".tok").first.hover()
    bar = page.locator(".tip .bar").first.evaluate(style, [None, "backgroundColor"])
    assert bar != page.locator(".tip").evaluate(style, [None, "backgroundColor"])
    page.select_option("#mode", "none")
    assert page.locator(".tok").first.evaluate(style, [None, "forcedColorAdjust"]) == "auto"


def test_all_of_a_chat_is_printed(fake: Fake, watched: Watched) -> None:
    fake.reply = lambda body: story(*(token(f"line {i}\n") for i in range(200)))
    page = watched.open(fake.url)
    ask(page)
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    assert len(re.findall(rb"/Type ?/Page\b", page.pdf())) > 3
    page.emulate_media(media="print")
    assert page.evaluate("log.scrollHeight - log.clientHeight") == 0
    assert not any(page.locator(part).is_visible() for part in ("#composer", "nav", ".turn .buttons"))
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light"
    assert page.locator(".tok").first.evaluate("t => getComputedStyle(t).printColorAdjust") == "exact"
