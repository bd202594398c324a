"""The settings that each source of the method has, as published."""

from __future__ import annotations

from autodeco_gguf.training.module import HeadKind
from autodeco_gguf.training.settings import Objective, TrainingSettings

_KIND = HeadKind(initial_top_p=0.5)

_TRL = TrainingSettings(
    objective=Objective(average="example"),
    kind=_KIND,
    max_tokens=12000,
    batch=32,  # of 8 processes, 4 accumulated steps, 1 example
    epochs=1.0,
    lr=5e-6,
    warmup=0.0,
    validation=0.0,
    patience=0,
)

RECIPES = {
    "trl": _TRL,
    "nemo": TrainingSettings(
        objective=Objective(average="token", easy_in="both", weight_at="T", feature_gradient=True),
        kind=_KIND,
        max_tokens=6143,  # 6144 are left out
        too_long="leave-out",
        batch=32,
        epochs=1.0,
        lr=5e-6,
        warmup=20,
        schedule="cosine",
        validation=0.0,
        patience=0,
    ),
    "paper": TrainingSettings(
        objective=Objective(losses="one", average="token", easy_in="both"),
        kind=_KIND,
        max_tokens=_TRL.max_tokens,
        batch=_TRL.batch,
        epochs=_TRL.epochs,
        lr=_TRL.lr,
        warmup=_TRL.warmup,
        validation=0.0,
        patience=0,
    ),
}
"""Name -> settings: the official TRL trainer (``trl_train.py``, ``script/trl_train.sh``), the official NeMo trainer
(``autodeco_megatron``), and section 2.1 of the paper, with what the paper does not say as in ``trl``."""
