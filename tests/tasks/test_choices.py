"""Multiple choice: which letter a response chooses."""

from __future__ import annotations

import time

import pytest

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.tasks.choices import choice, chosen

CHOICES = [
    # nothing but the letter
    ("C", "C"),
    ("c", "C"),
    (" C.\n", "C"),
    ("(C)", "C"),
    ("**C**", "C"),
    ("$C$", "C"),
    # boxed
    (r"\boxed{C}", "C"),
    (r"\boxed{c}", "C"),
    (r"\boxed{\text{C}}", "C"),
    (r"\boxed{\mathrm{C}}", "C"),
    (r"\boxed{\bf C}", "C"),
    (r"\boxed{{\rm C}}", "C"),
    (r"\boxed{(C) 5 cm}", "C"),
    (r"\boxed{C. 5}", "C"),
    (r"\boxed{\textbf{(C) }5\text{ cm}}", "C"),
    (r"\boxed{\text{Option C}}", "C"),
    (r"\boxed{A} no, \boxed{C}", "C"),
    (r"\boxed{C \text{ Paris}}", "C"),
    (r"\boxed{\textbf{C}\ 5}", "C"),
    (r"\boxed{\textbf{C} \quad 5}", "C"),
    (r"\boxed{\text{C}: 5}", "C"),
    (r"\boxed{C\text{. Paris}}", "C"),
    (r"\boxed{C, \text{ a city}}", "C"),
    (r"\boxed{\text{C}) 5}", "C"),
    (r"\boxed{C (Paris)}", "C"),
    (r"\boxed{C - Paris}", "C"),
    (r"\boxed{C - \text{Paris}}", "C"),
    (r"\boxed{A \text{ city}}", "A"),
    (r"\boxed{Cat}", None),
    (r"\boxed{C \text{ or } D}", None),
    (r"\boxed{\text{C}, \text{D}}", None),
    (r"\boxed{C - D}", None),
    (r"\boxed{C \cup D}", None),
    (r"\boxed{C = 5}", None),
    (r"\boxed{C\,d}", None),
    (r"\boxed{P(A)}", None),
    (r"\boxed{c - 5}", None),
    (r"\boxed{C, D}", None),
    (r"\boxed{U.S.}", None),
    (r"\boxed{5}", None),
    # said
    ("The answer is (C).", "C"),
    ("The answer is C", "C"),
    ("the answer is: **C**", "C"),
    ("The answer is **(C) 5 cm**.", "C"),
    ("**Answer:** C", "C"),
    ("**Answer: C**", "C"),
    ("**Answer**: __C__", "C"),
    ("ANSWER: C", "C"),
    ("Answer: $C$", "C"),
    (r"Answer: $\text{C}$", "C"),
    (r"The answer is \(C\).", "C"),
    ("Answer: (c)", "C"),
    ("Answer: option (C)", "C"),
    ("The correct option is C.", "C"),
    ("Final Answer: C) 5 cm", "C"),
    ("The answer is C, I think.", "C"),
    ("The correct answer is letter C.", "C"),
    ("so the answer must be C", "C"),
    ("Final Answer\n\n**C**", "C"),
    ("So.\n\n### Answer\n\nC. Paris", "C"),
    ("The answer is \u201cC\u201d.", "C"),
    ("The answer is \u2018C\u2019", "C"),
    ("The answer is \u00abC\u00bb", "C"),
    ("\u201cC\u201d", "C"),
    ("Answer\uff1aC", "C"),
    ("Final Answer - C", "C"),
    ("**Answer** \u2013 C", "C"),
    ("The answer is <b>C</b>", "C"),
    ("<strong>Answer:</strong> C", "C"),
    ("<answer>C</answer>", "C"),
    ("<answer>\nC. Paris\n</answer>", "C"),
    ("The answer is therefore C", "C"),
    ("The answer is most likely (C).", "C"),
    ("The correct answer is therefore: C", "C"),
    ("The answer is, therefore, C.", "C"),
    *((f"The answer is {surely} C.", "C") for surely in ("definitely", "indeed", "actually")),
    ("The answer to the question is C.", "C"),
    ("The correct choice for this problem is (C).", "C"),
    ("The correct answer here is C", "C"),
    ("**Answer to this question:** C", "C"),
    ("The correct answer here is A decrease", None),
    ("The answer is C.A is wrong.", "C"),
    ("Answer: C### Explanation", "C"),
    ("The answer is C<|im_end|>", "C"),
    ("The answer is C <end_of_turn>", "C"),
    ("The answer is C</s>", "C"),
    # words of one letter
    ("<answer>A decrease</answer>", None),
    ("The answer is therefore A decrease", None),
    ("Answer - I don't know", None),
    ("Answer: I don't know", None),
    ("The correct answer is: A decrease in ATP production.", None),
    ("The answer is A by-product", None),
    (r"\boxed{C} The correct answer is: A decrease in ATP production.", "C"),
    ("The answer is A because it is", "A"),
    ("The answer is A and nothing else", "A"),
    ("The answer is A based on this", "A"),
    ("The answer is option A obviously", "A"),
    *(
        (f"The answer is A {joined}", "A")
        for joined in ("the mitochondria", "all of the above", "assuming that", "according to it", "using it", "here.")
    ),
    ("The answer is A rather than B", "A"),
    ("The answer is A rather large one", None),
    ("Answer: I would say C", None),
    # another letter that is no other choice
    ("The answer is C, I'm sure.", "C"),
    ("The answer is C and A is wrong.", "C"),
    ("The answer is B and C are right", None),
    (r"The answer is C. \boxed{V\;=\;5}", "C"),
    (r"\boxed{E\,=\,mc^2}", None),
    ("Answer: **A** decrease", "A"),
    # a first line, where nothing is stated
    ("C. Paris", "C"),
    ("C) Paris", "C"),
    ("(C) Paris", "C"),
    ("**C. Paris**", "C"),
    ("C\n\nBecause A is wrong.", "C"),
    ("C. Paris\n\nIt is the capital, unlike A and B.", "C"),
    ("C. Paris is large, but the answer is A.", "A"),
    ("C. Paris\nA. Rome", None),
    ("**A.** Wrong.\n**B.** Right.", None),
    ("A\nB\nC", None),
    ("Option A: It is 4, so no.\nOption B: It is right.\nOption C: No.", None),
    ("**Option A:** No.\n\n**Option B:** Yes.", None),
    ("**Option** A: No.\n**Option** B: Yes.", None),
    ("- Choice A: No.\n- Choice B: Yes.", None),
    ("Letter A. No.\nLetter B. Yes.", None),
    ("Option C: Paris\n\nOption A is Rome.", "C"),
    ("Option C\n\nExplanation:\nOption A: wrong\nOption B: wrong\nOption C: right", "C"),
    ("**Option C**\n\n- Option A: x\n- Option B: y", "C"),
    ("C.\nOption A: wrong\nOption B: wrong", "C"),
    ("Option A\nOption B\nOption C", None),
    ("Option C: Paris\nIt is the capital.", "C"),
    ("(C) is wrong.", None),
    ("C is a vitamin.", None),
    ("It is this:\nC. Paris", None),
    # the last statement counts
    ("The answer is A. Wait, the answer is (C).", "C"),
    ("Answer: C\n\nOption A is wrong, as B.", "C"),
    (r"\boxed{A} Wait. The answer is (C).", "C"),
    (r"Answer: A, so \boxed{C}", "C"),
    (r"The answer is (C): $x = \boxed{5}$", "C"),
    # a list of the choices
    ("**Answer: C**\n\nExplanation of each option:\n\n**A.** Too small.\n**B.** Too large.", "C"),
    ("The answer is C.\n\nGoing through every option:\n\nA. Too small.\nIt is.\n\nB. Too large.", "C"),
    ("\\boxed{C}\n\nLet me check each option:\nA. No\nB. No\nC. Yes", "C"),
    ("Let's analyze each option:\n\nA. Paris is large.\nB. London is not.", None),
    ("Let's consider each answer choice:\n\n**A. Paris**: no\n**B. London**: yes", None),
    ("Each option: A. Paris; B. London.", None),
    ("To find the right answer:\n\n- A: Paris\n- B: London", None),
    ("The answer is C. To find the right answer:\n(A) Paris\n\n(B) London", "C"),
    ("The answer is:\nA. Paris", "A"),
    ("B. London is wrong.\nThe answer is:\nA. Paris", "A"),
    ("The answer is:\nA. Paris\n\nB is wrong.", "A"),
    ("The answer is:\nA. Paris\n\nThe others:\nB. London\nC. Rome", "A"),
    ("Answer:\nOption A: Paris\nOption B: London", None),
    # no statement
    ("", None),
    ("Answer:", None),
    ("Answer: Cats", None),
    ("A is better than C.", None),
    ("I think C.", None),
    ("The answer is not (C).", None),
    ("the answer is a vector.", None),
    ("The answer is C-sharp.", None),
    ("The answer is C's.", None),
    ("The answer is C#.", None),
    ("The answer is C\u2082H\u2086.", None),
    ("The answer is D.C.", None),
    ("The answer is $C = 5$.", None),
    ("The answer is $C < 5$.", None),
    ("The answer is $C<D$.", None),
    ("<answer>A or C</answer>", None),
    ("It is a multiple-choice-C matter.", None),
    ("The answer is A or C", None),
    ("The answer is (C) or (D).", None),
    ("Answer: C, D", None),
    ("Answer: C/D", None),
    ("The answer is A, B or C", None),
    ("Answer: A, C or D", None),
    ("The answer is A, B and C", None),
    ("The answer is A, C are right", None),
    ("The answer is C, A is wrong", "C"),
]


@pytest.mark.parametrize(("text", "letter"), CHOICES)
def test_choice(text: str, letter: str | None) -> None:
    assert [right for right in "ABCD" if choice(text, right)] == ([letter] if letter else [])
    assert chosen(text) == letter


@pytest.mark.parametrize(
    "piece",
    [
        "C",
        "C ",
        "C. ",
        "C\n",
        "C.\n",
        "*",
        "\n",
        "Answer\n",
        "answer is A ",
        "answer is\nA. ",
        "\\text{",
        r"\boxed{C ",
        "C: ",
        "A, ",
        "option ",
        "\noption",
        "} ",
        "<b>",
        "answer is C<a",
        "answer - ",
        "most likely ",
        "answer is, thus, ",
        "answer to the question ",
        "\u201c",
    ],
)
def test_a_model_that_repeats_itself_takes_no_time(piece: str) -> None:
    start = time.process_time()
    for text in ("{}", "C {}", "C. {}", r"\boxed{{C {} 5}}", r"\boxed{{\text{{C{} ("):
        chosen(text.format(piece * (200_000 // len(piece))))
    assert time.process_time() - start < 3


def test_commas_between_words_take_no_time() -> None:
    start = time.process_time()
    assert chosen(f"The answer is {'likely,' * 20}so. " * 20) is None
    assert chosen(f"The answer is {'likely,' * 9} therefore, C.") == "C"
    assert time.process_time() - start < 3


@pytest.mark.parametrize("answer", ["", "c", "CD", "(C)", "5"])
def test_choice_expects_a_letter(answer: str) -> None:
    with pytest.raises(InvalidInput, match=r"^answer '.*': expected one letter, A to Z$"):
        choice("C", answer)
