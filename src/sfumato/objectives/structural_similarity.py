r"""A reconstruction that is judged by its structure, at several scales."""

from __future__ import annotations

from typing import Annotated, ClassVar, final

from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.core.interfaces import MODEL, Objective, ObjectiveOutput
from sfumato.core.library import library
from sfumato.core.schedules import Step
from sfumato.core.spec import Positive, Range, register
from sfumato.core.terms import Terms

SHARES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, the finest first; Wang et al.


@final
@register("objective")
class StructuralSimilarity(Objective):
    r"""loss = 1 - MS-SSIM(x, x'), from 0 to 1, x' the mean of p(x | z) at the first draw; no density of x.

    MS-SSIM = prod_j ((1 + s_j) / 2)^{b_j}, s_j the mean over the image of contrast and structure at scale j, at the
    last one with the luminance; each scale is half as large as the one before, and b is that of the paper, of as many
    scales as asked for, adding up to 1. s itself may be negative, where its power has no gradient.

    A term of a sum that takes the place of the likelihood: ``ELBO(reconstruction=0) + w * StructuralSimilarity()``. The
    similarity itself is torchmetrics'.

    Reference: Learning to Generate Images with Perceptual Similarity Metrics, Snell et al., 2017,
    https://arxiv.org/abs/1511.06409; Multi-scale Structural Similarity for Image Quality Assessment, Wang et al., 2003.

    Args:
        scales: how many; the smaller side of an image has more than 6.5 sigma 2^(scales - 1) pixels or so.
        sigma: the standard deviation of the Gaussian window, pixels.
        data_range: the largest value of x minus the smallest.

    Returns (call):
        losses {"model": (batch,)}, without unit, and the value ``structural_similarity`` = MS-SSIM.

    >>> StructuralSimilarity(scales=2).any_samples
    True
    """

    any_samples: ClassVar[bool] = True

    def __init__(
        self,
        scales: Annotated[int, Range(1, 5)] = 2,
        sigma: Annotated[float, Range(0.2, 20.0)] = 1.5,
        data_range: Positive = 1.0,
    ) -> None:
        super().__init__()
        self.scales, self.sigma, self.data_range = scales, sigma, data_range
        self.window = 2 * int(3.5 * sigma + 0.5) + 1  # torchmetrics' own

    def forward(self, terms: Terms, step: Step) -> ObjectiveOutput:
        """Return the loss; ``step`` makes no difference.

        Raises:
            UserError: x are no images, or images that are too small.
        """
        x, least = terms.x, (self.window - 1) * 2 ** (self.scales - 1)
        if x.ndim != 4 or min(x.shape[2:]) <= least:
            raise UserError(
                f"StructuralSimilarity needs images of more than {least} pixels a side; got data of shape "
                f"{tuple(x.shape[1:])}. Use fewer scales, or a smaller sigma."
            )
        similarity = self._similarity(terms.observation.mean[0], x)
        return ObjectiveOutput({MODEL: 1 - similarity}, {"structural_similarity": similarity.detach()})

    def _similarity(self, made: Tensor, x: Tensor) -> Tensor:
        image = library("torchmetrics.functional.image", "metrics", "StructuralSimilarity")
        shares = SHARES[: self.scales]
        found: Tensor = image.multiscale_structural_similarity_index_measure(
            made,
            x,
            sigma=self.sigma,
            kernel_size=self.window,
            reduction="none",
            data_range=self.data_range,
            betas=tuple(share / sum(shares) for share in shares),
            normalize="simple",
        )
        return found
