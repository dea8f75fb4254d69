"""What a recipe may say of any training: epochs, batches, the optimiser, and where sampled items come from."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

SamplerName = Literal["uniform", "popularity", "in-batch", "midx", "softmax", "top-k", "top-k-random", "own"]


class Strict(BaseModel):
    """Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TrainingSettings(Strict):
    """How one stage is trained."""

    epochs: int = Field(20, ge=0)
    batch_size: int = Field(256, ge=1, description="sequences (causal retrievers) or events per step")
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    max_norm: float = Field(5.0, ge=0, description="gradients are clipped to this joint norm; 0: off")
    warmup_steps: int = Field(0, ge=0)
    low_precision: bool | Literal["auto"] = Field(
        False,
        description="matrix products of training in bfloat16; auto: where the processor or GPU multiplies in it: "
        "elsewhere they take many times as long",
    )
    cosine: bool = Field(False, description="let the learning rate fall along a half cosine")
    patience: int = Field(5, ge=0, description="validations without improvement before stopping; 0: never")
    metric: str = "ndcg@10"
    validate_every: int = Field(1, ge=1)
    validation_queries: int = Field(20_000, ge=1, description="at most so many queries per validation")
    checkpoint_seconds: float = Field(60.0, gt=0)


class SampledTrainingSettings(TrainingSettings):
    """A training against sampled items."""

    sampler: SamplerName = "uniform"
    num_negatives: int = Field(20, ge=1)
    num_codewords: int = Field(32, ge=1, description="sampler midx: codewords per half")
    depth: int = Field(100, ge=1, description="samplers top-k and top-k-random: k")

    @model_validator(mode="after")
    def _certain_needs_log_q(self) -> Self:
        names = [name for name in ("certain", "certain_retriever", "certain_ranker") if getattr(self, name, False)]
        if names and self.sampler.startswith("top-k"):
            raise ValueError(f"{names[0]}: sampler={self.sampler} has no log-probabilities to correct its draws by")
        return self
