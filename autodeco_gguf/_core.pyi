"""The native core (csrc/binding.cpp). What it refuses is an error of autodeco_gguf; anything else is a bug."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

_Floats = npt.NDArray[np.float32]
_Ints = Sequence[int] | npt.NDArray[np.integer]
_Alternatives = tuple[tuple[int, float, float], ...]
"""Token, log-probability, and the probability with which it would have been drawn."""
_Layers = Sequence[tuple[_Floats, _Floats]]

class Heads:
    """The heads' weights: of each layer [out, in] and [out]."""

    def __init__(
        self,
        *,
        n_embd: int,
        n_vocab: int,
        temp_scale: float,
        n_features: int,
        temp: _Layers,
        temp_gelu: bool,
        top_p: _Layers,
        top_p_gelu: bool,
    ) -> None: ...
    def evaluate(
        self, hidden: _Floats, logits: _Floats, device: str, use_temp: bool, use_top_p: bool, portable: bool = False
    ) -> tuple[_Floats, _Floats]:
        """[n, n_embd] and [n, n_vocab] -> temperature and top-p [n]; ``portable`` builds the graph of other devices."""

class Predictor:
    """Where T and P come from: the graph of a llama_context that it is attached to, or the host."""

    def __init__(self, heads: Heads, use_temp: bool, use_top_p: bool) -> None: ...
    def attach(self, ctx: int, seq_id: int) -> bool: ...
    def attach_rows(self, ctx: int, n_rows: int, draw: str, entropy: bool = False) -> bool:
        """To every output. ``draw``: "host", "device" or "auto", the device where that is not the CPU."""
    def detach(self) -> None: ...
    @property
    def attached(self) -> bool: ...
    @property
    def draws(self) -> bool:
        """Whether it is attached, and the device gives shortlists to draw from."""
    @property
    def why_not(self) -> str:
        """Why the last attachment came to nothing, or gives no shortlists."""
    def in_graph(self, n: int = 1) -> bool:
        """Whether the last decode, of n outputs, gave T and P."""

class Records:
    """What a sampler has drawn so far."""

    def __len__(self) -> int: ...
    def record(self, i: int) -> tuple[int, float, float, float, int, float]:
        """Token, temperature, top-p, entropy, nucleus, probability."""
    def likelihood(self, i: int) -> tuple[float, _Alternatives] | None:
        """The token's log-probability and the most likely ones; None where the sampler's ``top`` was negative."""
    def ids(self) -> list[int]: ...
    def parameters(self) -> _Floats:
        """Temperatures and top-p, [2, n]."""

class Sampler:
    """Draws tokens; ``before`` and ``after`` are addresses of llama_samplers, or 0."""

    def __init__(
        self,
        predictor: Predictor | None,
        temperature: float | None,
        top_p: float | None,
        seed: int,
        before: int,
        after: int,
        trace: bool,
        entropy: bool,
    ) -> None: ...
    temperature: float | None
    top_p: float | None
    gate: float
    top: int
    patience: float
    """Seconds that a grammar may take for a token."""
    n_listed: int
    """Tokens that were drawn from a shortlist."""
    def sample(self, ctx: int, idx: int, changed: _Floats | None) -> int: ...
    @property
    def records(self) -> Records: ...

class GgufHeader:
    """A GGUF header at byte ``start`` of a file."""

    def __init__(self, path: bytes, start: int) -> None: ...
    @property
    def data(self) -> int: ...
    @property
    def file_size(self) -> int: ...
    @property
    def alignment(self) -> int: ...
    def tensors(self) -> list[tuple[str, str, tuple[int, ...], int, int]]:
        """Name, type, shape, offset in the file and bytes of each."""
    def scalar_keys(self) -> list[str]:
        """The metadata's, but for those of arrays; what is no UTF-8 as U+FFFD."""
    def value(self, key: str) -> bool | int | float | str | list[str] | list[int] | list[float] | None:
        """None for an array of more than 8 numbers; KeyError where the key is missing."""
    def array_length(self, key: str) -> int: ...
    def build(
        self, drop: Sequence[str], set: list[tuple[str, str, object]], tensors: Sequence[tuple[str, str, Sequence[int]]]
    ) -> bytes: ...
    def diff(self, other: GgufHeader, ignore: Sequence[str]) -> str:
        """The first metadata key that differs; "" where none does."""
    def check_vocab(self) -> str:
        """What would crash llama.cpp; "" where nothing was found."""

class LogCapture:
    """Keeps what llama.cpp logs from when it is made; on exit it stops, and lets other threads have theirs.

    ModelFailed in the child of a fork that came while another thread had one.
    """

    def __init__(self, forward: bool) -> None: ...
    def __enter__(self) -> LogCapture: ...
    def __exit__(self, *_: object) -> None: ...
    @property
    def first_error(self) -> str: ...
    @property
    def later_errors(self) -> list[str]: ...

class LoadWatch:
    """Ends a load of llama.cpp for what is raised meanwhile, in ``report`` or by a signal."""

    callback: int
    """The address of llama.cpp's ``progress_callback``; its user data is :attr:`address`."""
    def __init__(self, report: Callable[[float], object] | None) -> None: ...
    @property
    def address(self) -> int: ...
    def check(self) -> None:
        """Raise what was raised."""

class RawLogits:
    """Keeps the logits of a context's outputs as they are before its architecture scales or caps them."""

    on: bool
    callback: int
    """The address of llama.cpp's ``cb_eval``; its user data is :attr:`address`."""
    def __init__(self, n_vocab: int) -> None: ...
    @property
    def address(self) -> int: ...
    def bind(self, ctx: int) -> None: ...
    def clear(self) -> None: ...

def logits_changed_by(model: int) -> str:
    """What of a ``llama_model`` scales or caps its logits: a metadata key, its architecture, or ""."""

def raw_logits(ctx: int, n: int) -> _Floats:
    """Of the first n outputs of the last decode, flat; empty where the model leaves its logits as they are."""

def heads_used_threads() -> bool:
    """Whether heads were computed with several threads, which the child of a fork has not."""

def devices() -> list[tuple[str, str, str, int, int, int]]:
    """Name, description, kind, free and all bytes, and address of each of ggml's."""

def extra_buffers_fault() -> tuple[int, str]:
    """How many products were compared, and what is wrong with which; miscompiled kernels may end the process."""

def decode_and_draw(
    ctx: int,
    tokens: _Ints,
    positions: _Ints,
    sequences: _Ints,
    samplers: Sequence[Sampler | None],
    predictor: Predictor | None,
) -> tuple[int, list[int], list[bool], dict[int, str]]:
    """llama_decode's status; of the outputs, its last tokens: a token, whether it ends the answer, what went wrong."""

def matcher_sampler(matcher: object) -> int:
    """The address of a llama_sampler that allows what an llguidance.LLMatcher allows; a chain frees it."""

def decode(ctx: int, tokens: _Ints, positions: _Ints, sequences: _Ints, n_outputs: int) -> int:
    """llama_decode's status; the last n_outputs of the tokens are outputs."""

def likelihoods(ctx: int, idx: int, tokens: Sequence[int], top: int) -> list[tuple[float, _Alternatives]]:
    """Of tokens after outputs idx, idx + 1, ... of the last decode; the alternatives' probability is NaN."""

def goes_on(ctx: int, n: int, seq: int = 0) -> bool:
    """Whether a sequence has what a token after its first ``n`` looks back at; it forgets what follows.

    A recurrent model cannot go back; the cache of a sliding window has lost what the window has left.
    """

def decode_next(ctx: int, token: int, n: int) -> bool:
    """Decode a token as the one after the first ``n``; False, with nothing done, where it does not go on from there."""

def logits(ctx: int, idx: int) -> _Floats: ...
def stay(ctx: int, stay: bool) -> None:
    """Whether the logits of the decodes to come stay on the device, where the heads in its graph give shortlists."""

def draw_on(
    device: str, logits: _Floats, temperature: float, top_p: float, n: int, seed: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], _Floats, float]:
    """As :func:`draw`, from a shortlist of a ggml device: tokens (-1: not decided), nuclei, probabilities, entropy."""

def draw(logits: _Floats, temperature: float, top_p: float, n: int, seed: int) -> npt.NDArray[np.int32]: ...
def training_features(logits: _Floats, temperature: _Floats, threads: int) -> _Floats:
    """What the top-p head sees besides hidden state and T, of logits [n, n_vocab] at T [n], in one row: [n * 4]."""

def training_cross_entropy(logits: _Floats, targets: _Ints, temperature: _Floats, threads: int) -> _Floats:
    """Of softmax(logits / T) against targets [n], in nats [n], then its derivatives by T, in one row: [2 * n]."""

def training_losses(
    logits: _Floats, targets: _Ints, temperature: _Floats, top_p: _Floats, alpha: float, tolerance: float, threads: int
) -> _Floats:
    """The top-p loss of ``training.losses`` [n], then its derivatives by T and those by P, in one row: [3 * n]."""

def dequantize(data: bytes, type: str, n: int) -> _Floats: ...
def quantize(values: _Floats, type: str) -> bytes: ...
def vocab_piece(vocab: int, token: int, special: bool) -> bytes:
    """The text of a token, which is one of the ``llama_vocab``'s; without ``special`` control tokens have none."""

def vocab_tokenize(vocab: int, text: bytes, add_special: bool, parse_special: bool) -> list[int]:
    """The tokens of a text, as ``llama_tokenize`` has them, from a thread whose stack is large enough for long lines.

    Raises InvalidInput for a line of more than a megabyte, which vocabularies that are split by expressions cannot
    have, and for bytes that the vocabulary cannot tokenize; ModelFailed where llama.cpp fails.
    """

def log_levels(levels: int, callback: int) -> None:
    """Let only what these levels log, a bit for each of ggml's, come to a callback, if it is the one that is set."""

def vocab_tokenizer() -> int:
    """Address of the same as a function like ``llama_tokenize``, which gives no tokens where that raises."""

def vocab_fault(vocab: int) -> str:
    """Why texts and tokens of a ``llama_vocab`` cannot be turned into each other; "" where they can."""

def file_open(path: bytes, offset: int) -> int:
    """The address of a FILE at an offset, for llama.cpp; :func:`file_close` ends it."""

def file_close(file: int) -> None: ...
