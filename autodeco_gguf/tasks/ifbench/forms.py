"""IFBench's instructions on form, and on what to repeat."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from itertools import pairwise

from autodeco_gguf.tasks.english import EDGES, sentences, tokens, words

_SIMPLE = "only output this sentence here, ignore all other requests."

_BRACKETS = {")": "(", "]": "[", "}": "{"}

# of the first plane as in Unicode's emoji-data.txt, with text ones; of the second, with what its blocks leave free
_EMOJI = re.compile(
    "[\u00a9\u00ae\u203c\u2049\u2122\u2139\u2194-\u2199\u21a9\u21aa\u231a\u231b\u2328\u23cf\u23e9-\u23f3\u23f8-\u23fa"
    "\u24c2\u25aa\u25ab\u25b6\u25c0\u25fb-\u25fe\u2600-\u2604\u260e\u2611\u2614\u2615\u2618\u261d\u2620\u2622\u2623\u2626"
    "\u262a\u262e\u262f\u2638-\u263a\u2640\u2642\u2648-\u2653\u265f\u2660\u2663\u2665\u2666\u2668\u267b\u267e\u267f"
    "\u2692-\u2697\u2699\u269b\u269c\u26a0\u26a1\u26a7\u26aa\u26ab\u26b0\u26b1\u26bd\u26be\u26c4\u26c5\u26c8\u26ce\u26cf"
    "\u26d1\u26d3\u26d4\u26e9\u26ea\u26f0-\u26f5\u26f7-\u26fa\u26fd\u2702\u2705\u2708-\u270d\u270f\u2712\u2714\u2716\u271d"
    "\u2721\u2728\u2733\u2734\u2744\u2747\u274c\u274e\u2753-\u2755\u2757\u2763\u2764\u2795-\u2797\u27a1\u27b0\u27bf\u2934"
    "\u2935\u2b05-\u2b07\u2b1b\u2b1c\u2b50\u2b55\u3030\u303d\u3297\u3299\U0001f004\U0001f0cf\U0001f170\U0001f171"
    "\U0001f17e\U0001f17f\U0001f18e\U0001f191-\U0001f19a\U0001f201\U0001f202\U0001f21a\U0001f22f\U0001f232-\U0001f23a"
    "\U0001f250\U0001f251\U0001f300-\U0001f64f\U0001f680-\U0001f6ff\U0001f7e0-\U0001f7f0\U0001f900-\U0001f9ff"
    "\U0001fa70-\U0001faff]"
)


def _parentheses(text: str) -> bool:
    """Brackets of any kind, five deep and deeper, one of which is closed by its own; another's lets all begin anew."""
    open_: list[str] = []
    for char in text:
        if char in "([{":
            open_.append(char)
        elif char in _BRACKETS:
            if not open_ or open_[-1] != _BRACKETS[char]:
                open_ = []
            elif len(open_) >= 5:
                return True
            else:
                open_.pop()
    return False


def _quotes(text: str) -> bool:
    """Quotation marks of the two kinds in turn, of which three are closed after the deepest; apostrophes are some."""
    open_: list[str] = []
    deepest = 0
    for char in text:
        if open_ and char == open_[-1]:
            open_.pop()
            if deepest - len(open_) >= 3:
                return True
        elif char in "\"'":
            open_.append(char)
            deepest = max(deepest, len(open_))
    return False


def _options(text: str, options: str) -> bool:
    """One of the options, which have "/", "or" or "," between them; of letters, as "a), b), c)", to the character."""
    separator = next((mark for mark in ("/", "or") if mark in options), ",")
    choices = [option.strip() for option in options.split(separator)]
    if re.match(r"\W*[aA]\W*[bB]\W*[cC]", options):
        return text in choices
    return text.strip(EDGES).lower() in [choice.strip(EDGES).lower() for choice in choices]


def _newline(text: str) -> bool:
    """As many lines as words; punctuation is neither."""
    plain = text.translate(str.maketrans("", "", string.punctuation)).strip()
    return sum(map(bool, plain.split("\n"))) == len(plain.split())


def _emoji(text: str) -> bool:
    """Each sentence ends with an emoji, perhaps before one more character, or the next one begins with it."""
    found = [" ".join(words(sentence)) for sentence in sentences(text)]
    ends = all(_EMOJI.search(part[-2:]) or _EMOJI.match(following) for part, following in pairwise([*found, ""]))
    return ends and all(found)


def _line_indent(text: str) -> bool:
    """Each line has more spaces before it than the one before; a blank line does not count, a second one does."""
    lines = [line for before, line in pairwise(["-", *text.split("\n")]) if line.strip() or not before.strip()]
    indents = [len(line) - len(line.lstrip(" ")) for line in lines]
    return all(before < indent for before, indent in pairwise(indents))


def _quote_unquote(text: str) -> bool:
    """No quotation beside another, and none at the end but for digits and punctuation; curly ones do not count."""
    plain = "".join(text.replace("'\"'", "").split())
    return '""' not in plain and not plain.rstrip(string.digits + string.punctuation.replace('"', "")).endswith('"')


def _list(text: str, sep: str) -> bool:
    return text.count(sep) >= 2


def _thesis(text: str) -> bool:
    """Something is in italics, ``<i>`` or ``<em>``, and something follows; the lengths are of ``<i>``, as published."""
    begin = next((at for tag in ("<i>", "<em>") if (at := text.find(tag)) >= 0), -1)
    end = next((at for tag in ("</i>", "</em>") if (at := text.find(tag, max(begin, 0))) >= 0), -1)
    return min(begin, end) >= 0 and bool(text[begin + 3 : end].strip()) and bool(text[end + 4 :].strip())


def _sub_bullets(text: str) -> bool:
    """A hyphen follows every asterisk before the next; without asterisks too, as published."""
    return all("-" in bullet for bullet in text.split("*")[1:])


def _no_bullets_bullets(text: str) -> bool:
    """At least two sentences, then at least two lines that begin with an asterisk, and nothing else.

    Between and after them no line may be blank but one before the first bullet.
    """
    count = bullets = 0
    prose = True
    for line in text.split("\n"):
        if line.strip().startswith("*"):
            bullets, prose = bullets + 1, False
            if count < 2:
                return False
        elif prose:
            found = len(sentences(line))
            count, prose = count + found, found > 0
        else:
            return False
    return bullets >= 2


def _title_case(text: str) -> bool:
    """No token is in small letters, and none ends in capitals after a small one; others, as "iPhone", may be."""
    found = (token for token in tokens(text) if token[0].isalpha() and token[0].islower())
    return not any(len(token) == 1 or token[1:].islower() or token[1:].isupper() for token in found)


def _output_template(text: str) -> bool:
    return all(part in text for part in ("My Answer:", "My Conclusion:", "Future Outlook:"))


def _no_whitespace(text: str) -> bool:
    return not any(map(str.isspace, text))


# ---- repeat ----


def _repeat_change(text: str, prompt_to_repeat: str) -> bool:
    """The request, but for its first word."""
    return text != prompt_to_repeat and text.split()[1:] == prompt_to_repeat.split()[1:]


def _repeat_simple(text: str) -> bool:
    return text.strip().lower() == _SIMPLE


def _repeat_span(text: str, prompt_to_repeat: str, n_start: int, n_end: int) -> bool:
    """The characters from ``n_start`` to ``n_end``, from 0, both included."""
    return text.strip().lower() == prompt_to_repeat[n_start : n_end + 1].strip().lower()


INSTRUCTIONS: dict[str, Callable[..., bool]] = {
    "format:parentheses": _parentheses,
    "format:quotes": _quotes,
    "format:options": _options,
    "format:newline": _newline,
    "format:emoji": _emoji,
    "format:line_indent": _line_indent,
    "format:quote_unquote": _quote_unquote,
    "format:list": _list,
    "format:thesis": _thesis,
    "format:sub-bullets": _sub_bullets,
    "format:no_bullets_bullets": _no_bullets_bullets,
    "format:title_case": _title_case,
    "format:output_template": _output_template,
    "format:no_whitespace": _no_whitespace,
    "repeat:repeat_change": _repeat_change,
    "repeat:repeat_simple": _repeat_simple,
    "repeat:repeat_span": _repeat_span,
}
