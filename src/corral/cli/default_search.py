"""The search space of a study that names none: what matters most in the stages that a recipe has"""

from __future__ import annotations

from corral.cli.build import CTR_MODELS
from corral.cli.search_space import Choices, Range, SearchSpace, check_space
from corral.settings import Settings
from corral.stage_settings import CorrSettings
from corral.training_settings import SampledTrainingSettings


def _around(value: float) -> Range:
    """From a quarter of what the recipe says to four times as much."""
    return Range(low=value / 4, high=value * 4, log=True)


def _training(name: str, chosen: SampledTrainingSettings, *, sampled: bool) -> dict[str, Range | Choices]:
    found: dict[str, Range | Choices] = {f"{name}.learning_rate": _around(chosen.learning_rate)}
    if sampled:
        # A multiple of 4, so that both ends are whole.
        found[f"{name}.num_negatives"] = _around(4 * max(chosen.num_negatives // 4, 1))
    return found


def default_search(settings: Settings) -> SearchSpace:
    """Learning rates, dropout and negatives of what the recipe trains, and its method's own knobs.

    Where the ranker learns from click labels its retriever is left as it is: validation judges the ranker alone.

    Raises:
        ValueError: the recipe learns nothing.
    """
    retriever, ranker, together = settings.retriever, settings.ranker, settings.together
    clicks = ranker is not None and settings.ranker_training.loss == "clicks"
    found: dict[str, Range | Choices] = {}
    if retriever.kind != "popularity" and not clicks:
        if together is None:
            apart = settings.retriever_training
            found |= _training("retriever_training", apart, sampled=apart.loss in ("sampled-softmax", "bce"))
        found |= {
            f"retriever.{name}": Range(low=0.0, high=0.6)
            for name in ("dropout", "user_dropout")
            if hasattr(retriever, name)
        }
        if hasattr(retriever, "item_std"):
            found["retriever.item_std"] = Choices(values=(0.0, 0.02, 0.05))
    if ranker is not None:
        if together is None:
            found |= _training("ranker_training", settings.ranker_training, sampled=not clicks)
        if clicks:
            found["ranker_training.weight_decay"] = Choices(values=(0.0, 0.001, 0.01, 0.1))
        if ranker.kind in CTR_MODELS and "dropout" in CTR_MODELS[ranker.kind][1]:
            found["ranker.dropout"] = Range(low=0.0, high=0.5)
        found["ranker.embedding_dropout"] = Range(low=0.0, high=0.6)
        if ranker.rar is not None:
            found["ranker.rar.alpha"] = Range(low=0.5, high=1.0)
            found["ranker.rar.look_alikes"] = found["ranker.rar.recall_items"] = Choices(values=(5, 10, 20))
    if together is not None:
        found |= _training("together", together, sampled=True)
        if isinstance(together, CorrSettings) and together.distillation:
            found["together.distillation"] = _around(together.distillation)
    if not found:
        raise ValueError(f"retriever.kind={retriever.kind} learns nothing: there is nothing to tune in this recipe")
    return check_space(found, "the default search", settings)
