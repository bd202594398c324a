"""The 58 kinds of instructions of IFBench, and IFEval's, each checked by a program: prompt-level accuracy.

The definitions are those of the published evaluation (Pyatkin et al., "Generalizing Verifiable Instruction Following",
https://arxiv.org/abs/2507.02833; https://github.com/allenai/IFBench at commit db69a6f), which takes IFEval's ids too.
"""

from __future__ import annotations

from collections.abc import Callable

from autodeco_gguf.tasks import ifeval
from autodeco_gguf.tasks.ifbench import counts, custom, forms, words
from autodeco_gguf.tasks.instruction_checks import COUNT, POSITION, TEXT, Instructions, Kind

INSTRUCTIONS: dict[str, Callable[..., bool]] = {
    **counts.INSTRUCTIONS,
    **words.INSTRUCTIONS,
    **forms.INSTRUCTIONS,
    **custom.INSTRUCTIONS,
}
"""The check of each id, without IFEval's."""

_PERCENTAGE = Kind(
    lambda v: isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= 100, "a number from 0 to 100"
)
_WORD = "word keyword keyword1 keyword2 keyword3 keyword4 keyword5 sep options prompt_to_repeat reference_text"
ARGUMENTS = {
    **dict.fromkeys(("N", "small_n", "min_words", "max_words", "n_start", "n_end"), COUNT),
    **dict.fromkeys(("n", "m", "sentence:keyword N", "count:words_japanese N"), POSITION),
    **dict.fromkeys(_WORD.split(), TEXT),
    "percentage": _PERCENTAGE,
}
"""What each argument of an instruction has to be."""

IFBENCH = Instructions(
    {**INSTRUCTIONS, **ifeval.INSTRUCTIONS},
    {**ifeval.ARGUMENTS, **ARGUMENTS},
    {**ifeval.IFEVAL.packages, **words.PACKAGES},
)
check, parse = IFBENCH.check, IFBENCH.parse
