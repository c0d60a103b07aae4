"""2D Matryoshka Sentence Embeddings (Li et al., 2024, arXiv:2402.14776): fewer layers and fewer dimensions."""

from __future__ import annotations

from cse.batch import Batch, LossOutput, Views
from cse.encoder.model import Encoder
from cse.interfaces import Objective, StepContext
from cse.objectives.adaptive_layer import AdaptiveLayer, LayerWeighting
from cse.objectives.matryoshka import Matryoshka


class Matryoshka2d(Objective):
    """`AdaptiveLayer` over `Matryoshka`: the loss on each layer is the sum over widths, which are drawn for each layer.

        L = AdaptiveLayer with L(l) = sum_m c_m L( z_l[:m] / |z_l[:m]| ) as the loss on layer l

    The divergence between layers is that of whole vectors.

    Args:
        term: The objective. It must have no weights of its own.
        dimensions: The widths; see `Matryoshka` for this and the next two.
        weights: One per width.
        dimensions_per_step: Widths that are drawn for each layer (paper: 1). None: all.
        layers_per_step: Earlier layers in a step (paper: 1); see `AdaptiveLayer` for this and what follows.
        last_weight: Weight of the last layer's loss.
        prior_weight: Weight of the earlier layers' losses.
        kl_weight: Weight of the divergence.
        kl_temperature: Temperature of the divergence; 0 leaves it out.
        layer_weighting: Weight of a layer by its number.

    Raises:
        UserError: An argument is out of range, the objective has a head, or the encoder has one in training only.

    Source: sentence-transformers 6.2.0, losses/matryoshka_2d.py, Matryoshka2dLoss.
    """

    def __init__(
        self,
        *,
        term: Objective,
        dimensions: list[int] | None = None,
        weights: list[float] | None = None,
        dimensions_per_step: int | None = 1,
        layers_per_step: int | None = 1,
        last_weight: float = 1.0,
        prior_weight: float = 1.0,
        kl_weight: float = 1.0,
        kl_temperature: float = 0.3,
        layer_weighting: LayerWeighting = "uniform",
    ) -> None:
        super().__init__()
        by_width = Matryoshka(
            term=term, dimensions=dimensions, weights=weights, dimensions_per_step=dimensions_per_step
        )
        self.by_layer = AdaptiveLayer(
            term=by_width,
            layers_per_step=layers_per_step,
            last_weight=last_weight,
            prior_weight=prior_weight,
            kl_weight=kl_weight,
            kl_temperature=kl_temperature,
            layer_weighting=layer_weighting,
        )
        self.inherit_flags(self.by_layer)

    def setup(self, encoder: Encoder) -> None:
        """Set up both."""
        self.by_layer.setup(encoder)

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        """The weighted sum over layers and widths."""
        output: LossOutput = self.by_layer(views, batch, ctx)
        return output

    def after_step(self, ctx: StepContext) -> None:
        """Tell the objective."""
        self.by_layer.after_step(ctx)

    def describe(self) -> str:
        """The two that it consists of."""
        return self.by_layer.describe()
