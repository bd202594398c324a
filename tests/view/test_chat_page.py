"""The page at / in a real browser: a chat whose tokens show their values."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from page_helpers import DONE, STORY, Fake, Reply, Watched, ask, chunk, seed_of, story, text_of, token

if TYPE_CHECKING:
    from playwright.sync_api import Page


def shown(page: Page) -> tuple[Any, ...]:
    """All that an answer shows: texts, colours and the lines of the chart."""
    answer = page.locator(".turn.assistant").last
    tokens = answer.locator(".tok").evaluate_all("all => all.map(t => [t.textContent, t.getAttribute('style')])")
    return tokens, answer.locator("path").evaluate_all("all => all.map(p => p.getAttribute('d'))")


def tip(page: Page) -> dict[str, str]:
    names, values = page.locator(".tip dt").all_text_contents(), page.locator(".tip dd").all_text_contents()
    return dict(zip(names, values, strict=True))


# ---- an answer ----


def test_an_answer_streams_in(fake: Fake, watched: Watched) -> None:
    reply = Reply([*map(chunk, STORY), chunk(finish="stop"), DONE], gate=3)
    fake.reply = lambda body: reply
    page = watched.open(fake.url)
    assert page.locator("#model").inner_text() == "demo"
    assert page.locator("#empty").is_visible()
    page.fill("#prompt", "Tell a story")
    page.press("#prompt", "Enter")
    page.locator(".tok").nth(2).wait_for()  # before the rest is sent
    assert page.locator(".tok").count() == 3
    reply.go.set()
    page.locator(".again").wait_for()
    assert text_of(page) == "Near the café 🙂."
    assert page.locator(".said").inner_text() == "Tell a story"
    assert not page.locator("#empty").is_visible()
    (body,) = fake.bodies
    assert body["messages"] == [{"role": "user", "content": "Tell a story"}]
    assert (body["stream"], body["autodeco"]) == (True, {"tokens": True, "top": 5})
    assert not {"temperature", "top_p", "max_tokens", "heads"} & body.keys()
    assert seed_of(page) == str(body["seed"])
    about = page.locator(".about").inner_text()
    assert "5 tokens · mean T 0.77 · mean P 0.61" in about
    assert "by heads" in about
    assert all(url.startswith(fake.url) for url in watched.asked)


def test_the_talk_goes_on(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url)
    ask(page, "first")
    ask(page, "second")
    roles = [message["role"] for message in fake.bodies[1]["messages"]]
    assert roles == ["user", "assistant", "user"]
    assert fake.bodies[1]["messages"][1]["content"] == "Near the café 🙂."
    page.click("#clear")
    assert page.locator("#empty").is_visible()
    ask(page, "third")
    assert len(fake.bodies[2]["messages"]) == 1


def test_an_example_is_asked_by_a_click(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url)
    page.locator("#examples button").first.click()
    page.locator(".again").wait_for()
    assert fake.bodies[0]["messages"][0]["content"] == "Tell a story about Mia with 47 and 38."


# ---- the values of a token ----


def test_hover_shows_the_values_of_the_trace(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url)
    ask(page)
    page.locator(".tok").first.hover()
    assert tip(page) == {
        "T": "0.297", "P": "0.823", "entropy": "1.250 nats", "nucleus": "7", "probability": "0.625",
        "by the model alone": "0.607",
    }  # fmt: skip
    rows = page.locator(".tip tbody tr").evaluate_all("all => all.map(r => [...r.cells].map(c => c.textContent))")
    assert rows == [["Near", "0.607", "0.625"], [" Lena", "0.223", "0.375"], ["\\n", "0.018", "0"]]
    assert page.locator(".tip .drawn td").first.inner_text() == "Near"
    assert "token 1, id 594" in page.locator(".tip").inner_text()
    page.locator(".tok").nth(1).hover()
    assert (tip(page)["T"], tip(page)["P"]) == ("1.900", "0.200")
    assert page.locator(".chart .mark").count() == 1
    page.mouse.move(2, 2)
    page.locator(".tip").wait_for(state="hidden")


def test_only_what_was_cut_off_has_no_probability(fake: Fake, watched: Watched) -> None:
    more = [
        {"text": "a", "logprob": -8.0, "prob": 0.00049},
        {"text": "b", "logprob": -800.0, "prob": 0.0},
        {"text": "c"},
    ]
    fake.reply = lambda body: story(token("a", prob=0.0005, logprob=-7.7, alternatives=more, id=None))
    page = watched.open(fake.url)
    ask(page)
    page.locator(".tok").hover()
    assert (tip(page)["probability"], tip(page)["by the model alone"]) == ("0.001", "<0.001")
    rows = page.locator(".tip tbody tr").evaluate_all("all => all.map(r => [...r.cells].map(c => c.textContent))")
    unknown = "\N{EN DASH}"
    assert rows == [["a", "<0.001", "<0.001"], ["b", "<0.001", "0"], ["c", unknown, unknown]]
    assert page.locator(".tip .drawn").count() == 0  # without ids nobody knows


def test_arrow_keys_go_from_token_to_token(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url)
    ask(page)
    page.locator(".tokens").focus()
    for key, temperature in (
        ("ArrowRight", "0.297"),
        ("ArrowRight", "1.900"),
        ("End", "0.600"),
        ("ArrowLeft", "0.030"),
    ):
        page.keyboard.press(key)
        assert tip(page)["T"] == temperature
    page.keyboard.press("Escape")
    assert not page.locator(".tip").is_visible()


def test_keys_with_modifiers_are_the_browser_s(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url)
    ask(page)
    event = "([key, name]) => new KeyboardEvent('keydown', { key, [name]: true, bubbles: true, cancelable: true })"
    for key, name in (("ArrowLeft", "altKey"), ("Home", "ctrlKey"), ("ArrowLeft", "metaKey"), ("End", "shiftKey")):
        passed = page.evaluate(f"x => document.querySelector('.tokens').dispatchEvent(({event})(x))", [key, name])
        assert (passed, page.locator(".tip").is_visible()) == (True, False)


def test_a_tap_shows_them_until_another(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url, has_touch=True, viewport={"width": 360, "height": 640})
    ask(page)
    page.locator(".tok").nth(1).tap()
    assert tip(page)["T"] == "1.900"
    page.locator("h1").tap()
    page.locator(".tip").wait_for(state="hidden")


def test_the_chart_points_at_its_tokens(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url)
    ask(page)
    chart = page.locator(".chart svg")
    assert chart.get_attribute("aria-label") == "5 tokens: mean T 0.77 (0.03 to 1.90), mean P 0.61 (0.20 to 1.00)"
    lines = page.locator(".chart path").evaluate_all("all => all.map(p => p.getAttribute('d').match(/[ML]/g).length)")
    assert lines == [5, 5]
    box = chart.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] - 36, box["y"] + 40)
    assert tip(page)["T"] == "0.600"
    assert page.locator(".tok.current").inner_text() == "."


def test_another_value_colours_them(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url)
    ask(page)

    def hues() -> list[tuple[str, float]]:
        script = "all => all.map(t => [t.style.getPropertyValue('--hue'), +t.style.getPropertyValue('--much')])"
        return [tuple(x) for x in page.locator(".tok").evaluate_all(script)]

    assert hues()[:3] == [("255", 0.703), ("55", 0.9), ("55", 0.0)]  # T of 0.297, 1.9 and 1, on a scale to 2
    page.select_option("#mode", "top_p")
    assert hues()[:3] == [("55", 0.646), ("255", 0.6), ("55", 1.0)]
    page.select_option("#mode", "none")
    assert page.locator(".tinted").count() == 0
    page.reload()
    assert page.locator("#mode").input_value() == "none"


# ---- what the server may send ----

HOSTILE = [
    ["<img src=x onerror=window.x=1>"],
    ["<im", "g src=x onerror=window.x=1>"],
    ["<script>window.x=1</script>", "<svg onload=window.x=1>"],
    ["[a](javascript:window.x=1)"],
    ["![](http://127.0.0.1:9/)", "<link rel=stylesheet href=http://127.0.0.1:9/>"],
    ['"><iframe srcdoc="<script>parent.x=1</script>">', "&lt;b&gt;", "\u202e\x00\x1b[31m"],
]


def test_text_stays_text(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url)
    for texts in HOSTILE:
        others = [{"id": 1, "text": "".join(texts), "logprob": -1.0, "prob": 0.5}]
        reply = story(*(token(text, alternatives=others) for text in texts))
        fake.reply = lambda body, reply=reply: reply  # type: ignore[misc]
        ask(page, "".join(texts).replace("\x00", ""))
        page.locator(".turn.assistant").last.locator(".tok").first.hover()
        assert text_of(page) == "".join(texts)
        assert page.evaluate("window.x") is None
        assert page.locator("main img, main iframe, main a, main script, main .tok *, .tip img").count() == 0
    assert all(url.startswith(fake.url) for url in watched.asked)


def test_pieces_may_end_anywhere(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url)
    ask(page)
    direct = shown(page)
    whole = b"\xef\xbb\xbf" + b"".join(b": ping\n\nevent: x\nid: 3\n" + piece for piece in story().pieces)
    for ends in (b"\n", b"\r\n"):
        sent = whole.replace(b"\n", ends)
        reply = Reply((sent[i : i + 1] for i in range(len(sent))), pause=0.0001)
        fake.reply = lambda body, reply=reply: reply  # type: ignore[misc]
        ask(page)
        assert shown(page) == direct
        assert text_of(page) == "Near the café 🙂."


def test_every_cut_of_a_stream_gives_the_same_events(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url)
    stream = ": c\r\ndata: é🙂\r\n\r\ndata:a\r\ndata: b\r\n\r\ndata\n\nretry: 1\n\n\ndata:  c\r\rdata: lost"
    script = """async text => {
      const { Events } = await import('/stream.js'), bytes = new TextEncoder().encode(text), found = new Set();
      for (let i = 0; i <= bytes.length; i++) for (let j = i; j <= bytes.length; j++) {
        const events = new Events();
        found.add(JSON.stringify([[0, i], [i, j], [j]].flatMap((ends) => events.push(bytes.slice(...ends)))));
      }
      return [...found];
    }"""
    (only,) = page.evaluate(script, stream)
    assert json.loads(only) == ["é🙂", "a\nb", "", " c"]


def test_a_token_without_text_has_its_values(fake: Fake, watched: Watched) -> None:
    halves = [token("", 0.25), token("🙂", 0.75), token("", 1.25)]
    fake.reply = lambda body: Reply([chunk(*halves), chunk(finish="length"), DONE])
    page = watched.open(fake.url)
    ask(page)
    assert page.locator(".tok").count() == 3
    page.locator(".tok").nth(2).hover()
    assert tip(page)["T"] == "1.250"
    assert "cut by its length" in page.locator(".about").inner_text()


def test_text_that_comes_before_its_token(fake: Fake, watched: Watched) -> None:
    """A token with a blank and the begin of a character waits for the rest, the blank does not."""
    tokens = [token(" "), token(""), token("🙂")]
    pieces = [
        chunk(token("Hi")),
        chunk(content=" "),
        chunk(*tokens, content="🙂"),
        chunk(content="."),
        chunk(finish="stop"),
    ]
    fake.reply = lambda body: Reply([*pieces, DONE])
    page = watched.open(fake.url)
    ask(page)
    assert text_of(page) == "Hi 🙂."
    assert page.locator(".tok").count() == 5
    ask(page, "second")
    assert fake.bodies[1]["messages"][1]["content"] == "Hi 🙂."


def test_a_server_without_traces_will_do(fake: Fake, watched: Watched) -> None:
    def plain(text: str) -> bytes:
        return b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n"

    fake.reply = lambda body: Reply([plain("no "), plain("values"), b'data: {"choices": [], "usage": {}}\n\n', DONE])
    page = watched.open(fake.url)
    ask(page)
    assert text_of(page) == "no values"
    assert not page.locator(".chart").is_visible()
    page.locator(".tok").first.hover()
    assert not page.locator(".tip").is_visible()


def test_a_long_answer_is_no_slower_at_its_end(fake: Fake, watched: Watched) -> None:
    fake.reply = lambda body: story(*(token(f" word{i % 7}", i % 20 / 10) for i in range(6000)))
    page = watched.open(fake.url)
    began = time.monotonic()
    ask(page)
    assert time.monotonic() - began < 10  # a layout of all of it at every token takes minutes
    assert page.locator(".tok").count() == 6000


# ---- thinking ----

THOUGHT = "<think>\nhm, 85\n</think>\n\nIt is 85."


def test_thinking_is_folded(fake: Fake, watched: Watched) -> None:
    page = watched.open(fake.url)
    for size in (1, 2, 3, 5, 8, 100):  # of the pieces that it comes in
        reply = story(*(token(THOUGHT[i : i + size]) for i in range(0, len(THOUGHT), size)))
        fake.reply = lambda body, reply=reply: reply  # type: ignore[misc]
        ask(page)
        assert text_of(page) == THOUGHT
        turn = page.locator(".turn.assistant").last
        fold = turn.locator("details.think")
        assert "".join(fold.locator(".tok").all_text_contents()) == "<think>\nhm, 85\n</think>"
        assert fold.locator(".tok").first.is_visible()
        fold.locator("summary").click()
        assert not fold.locator(".tok").first.is_visible()
        assert turn.locator(".tokens > .tok").last.is_visible()
        turn.locator(".tokens").focus()
        page.keyboard.press("Home")  # shows what it goes to
        assert fold.locator(".tok").first.is_visible()


def test_a_template_may_have_begun_the_thinking(fake: Fake, watched: Watched) -> None:
    fake.reply = lambda body: story(*map(token, ["so", " 85", "</th", "ink>", "It", " is", " <b", "> and </think>."]))
    page = watched.open(fake.url)
    ask(page)
    assert page.locator("details.think").all_text_contents() == ["Thinkingso 85</think>"]
    assert page.locator(".tokens > .tok").all_text_contents() == ["It", " is", " <b", "> and </think>."]
