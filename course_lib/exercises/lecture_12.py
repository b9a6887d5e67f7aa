"""Checks of the exercises on lecture 12, the ELBO."""

from __future__ import annotations

import torch
from torch import Tensor

from course_lib import probability
from course_lib.exercises.attempts import Attempt
from course_lib.exercises.registry import exercise

LECTURE = "12_elbo"


# ---------------------------------------------------------------------------- 12.1


@exercise(
    "12.1",
    see="section 7, equation (12.23)",
    learnt="This is the rate of every VAE with a standard normal prior; lecture 13 adds it to a "
    "reconstruction term and watches which latents it switches off.",
    hints={
        "averaged over latents": "You average over the latent dimensions. The contract sums them: "
        "a KL of k independent coordinates is the sum of k KLs, and a mean divides beta by k.",
        "averaged over the batch": "You return one number for the whole batch. One KL per image is "
        "wanted, shape [batch]; whoever trains takes the mean.",
        "other direction": "This is KL(p || q) with the prior first. The ELBO needs the code's "
        "distribution first, KL(q || p): the average is over q.",
        "minus sign": "You have the negative of the KL. A KL is never below zero; many papers "
        "print -KL because they write the ELBO.",
        "half forgotten": "Your value is twice the KL: the factor 1/2 in front of the sum.",
        "log_var taken as log s": "You square exp(log_var). log_var is log s²: its exponential is "
        "the variance already.",
        "log_var taken as the variance": "You use log_var as if it were the variance. Encoders "
        "return its logarithm, so that any real number is allowed.",
        "not finite": "At log_var = -200 the variance rounds to 0, and log(exp(log_var)) is minus "
        "infinity: use log_var itself where its logarithm is needed.",
    },
)
def kl_to_standard_normal(attempt: Attempt) -> None:
    """KL(N(mu, diag exp(log_var)) || N(0, I)) per image."""
    mistakes = {
        "averaged over latents": lambda m, v: 0.5 * (m**2 + v.exp() - 1 - v).mean(-1),
        "averaged over the batch": lambda m, v: 0.5 * (m**2 + v.exp() - 1 - v).sum(-1).mean(),
        "other direction": probability.kl_from_standard_normal,
        "minus sign": lambda m, v: -probability.kl_to_standard_normal(m, v),
        "half forgotten": lambda m, v: 2 * probability.kl_to_standard_normal(m, v),
        "log_var taken as log s": lambda m, v: 0.5 * (m**2 + (2 * v).exp() - 1 - 2 * v).sum(-1),
        "log_var taken as the variance": lambda m, v: 0.5 * (m**2 + v - 1 - v.log()).sum(-1),
    }
    right = probability.kl_to_standard_normal
    one = (torch.tensor([[1.5, 0.0]]), torch.tensor([[0.7, 0.3]]))
    attempt.value("one image, two latents", one, right, mistakes=mistakes, tolerance=1e-5)
    many = attempt.normal(5, 3), attempt.normal(5, 3)
    attempt.value("five images, three latents", many, right, mistakes=mistakes)
    attempt.gradient("five images, three latents", many, right, of=(0, 1), mistakes=mistakes)
    point = torch.tensor([[0.5, -0.5]]), torch.tensor([[-200.0, 3.0]])
    attempt.value("a code of almost no width", point, right, tolerance=1e-5)


# ---------------------------------------------------------------------------- 12.2


@exercise(
    "12.2",
    see="section 6, equation (12.14)",
    learnt="With the noise as an argument the draw is a differentiable function of mu and log_var; "
    "lecture 13's encoder gets all of its gradient of the reconstruction through this line.",
    hints={
        "variance for deviation": "You multiply the noise by the variance. A standard normal "
        "number times c has standard deviation c, and exp(log_var) is s², not s.",
        "log_var for deviation": "You multiply the noise by log_var itself, which may be negative.",
        "noise of its own": "Your result does not depend on the `noise` that it was given. Drawing "
        "inside hides the randomness: use the argument.",
        "mean only": "You return mu: nothing is sampled. That is right at test time only.",
        "exponent too large": "You multiply by exp(2 log_var): half of log_var is wanted in the "
        "exponent, not twice.",
        "no gradient": "This is the point of the trick: z must stay connected to mu and log_var.",
    },
)
def reparameterise(attempt: Attempt) -> None:
    """z = mu + exp(log_var / 2) * noise."""
    mistakes = {
        "variance for deviation": lambda m, v, e: m + v.exp() * e,
        "log_var for deviation": lambda m, v, e: m + v * e,
        "mean only": lambda m, v, e: m,
        "exponent too large": lambda m, v, e: m + (2 * v).exp() * e,
    }

    def right(mu: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
        return mu + (0.5 * log_var).exp() * noise

    args = tuple(attempt.normal(4, 3) for _ in range(3))
    found = attempt.call("four images, three latents", *args)
    again = attempt.call("four images, three latents, other noise", *args[:2], -args[2])
    if isinstance(found, Tensor) and isinstance(again, Tensor) and not found.equal(args[0]):
        centred = found.shape == again.shape and torch.allclose(
            (found + again) / 2, args[0].to(found.dtype), atol=1e-6
        )
        known = any(torch.allclose(found, m(*args)) for m in mistakes.values())
        attempt.require(
            centred or known or torch.allclose(found, right(*args)) or found.shape != args[0].shape,
            "noise of its own",
        )
    attempt.value("four images, three latents", args, right, mistakes=mistakes)
    attempt.gradient("four images, three latents", args, right, of=(0, 1), mistakes=mistakes)
    single = tuple(x.float() for x in (args[0][:1], args[1][:1], args[2][:1]))
    attempt.value("a batch of one, float32", single, right, tolerance=1e-5)
