"""Answers to the exercises on lecture 17: right in different ways, and wrong as students write."""

from __future__ import annotations

import math

import numpy as np
import scipy.spatial
import torch
from answers import Answers
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

# ---------------------------------------------------------------------------- 17.1


def score_by_entropies(probs):
    marginal = probs.mean(0)
    information = torch.special.entr(marginal).sum() - torch.special.entr(probs).sum(1).mean()
    return information.exp()


def score_by_loop(probs):
    marginal, total = probs.mean(0), 0.0
    for row in probs:
        for p, m in zip(row.tolist(), marginal.tolist(), strict=True):
            if p > 0:
                total += p * math.log(p / m)
    return math.exp(total / len(probs))


def score_by_distributions(probs):
    marginal = Categorical(probs=probs.mean(0, keepdim=True))
    return kl_divergence(Categorical(probs=probs), marginal).mean().exp()


def score_with_epsilon(probs):
    p, m = probs.numpy(), probs.numpy().mean(0, keepdims=True)
    kl = p * (np.log(p + 1e-16) - np.log(m + 1e-16))
    return float(np.exp(kl.sum(1).mean()))


def score_by_ratio(probs):
    # openai/improved-gan issue 29 has NaN for exact zeros; xlogy mends those of the rows, and
    # leaves 0/0 for a class that no image shows.
    return torch.xlogy(probs, probs / probs.mean(0)).sum(1).mean().exp()


# ---------------------------------------------------------------------------- 17.2


def frechet_by_eigenvalues(mean_a, cov_a, mean_b, cov_b):
    roots = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt()
    between = (mean_a - mean_b).square().sum()
    return between + cov_a.trace() + cov_b.trace() - 2 * roots.sum()


def frechet_by_unclamped_eigenvalues(mean_a, cov_a, mean_b, cov_b):
    roots = torch.linalg.eigvalsh(cov_a @ cov_b).sqrt()
    return (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * roots.sum()


def _root(cov):
    values, vectors = torch.linalg.eigh(cov)
    return vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T


def frechet_by_symmetric_roots(mean_a, cov_a, mean_b, cov_b):
    root = _root(cov_a)
    middle = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    d = mean_a - mean_b
    return float(d @ d + torch.trace(cov_a + cov_b) - 2 * middle)


def frechet_by_nuclear_norm(mean_a, cov_a, mean_b, cov_b):
    overlap = torch.linalg.matrix_norm(_root(cov_a) @ _root(cov_b), "nuc")
    return torch.dist(mean_a, mean_b) ** 2 + cov_a.trace() + cov_b.trace() - 2 * overlap


def frechet_by_loop(mean_a, cov_a, mean_b, cov_b):
    total = 0.0
    for i in range(len(mean_a)):
        total += float((mean_a[i] - mean_b[i]) ** 2 + cov_a[i, i] + cov_b[i, i])
    for value in np.linalg.eigvals((cov_a @ cov_b).numpy()):
        total -= 2 * math.sqrt(max(0.0, value.real))
    return total


def frechet_with(overlap):
    def distance(mean_a, cov_a, mean_b, cov_b):
        between = (mean_a - mean_b).square().sum()
        return between + cov_a.trace() + cov_b.trace() - 2 * overlap(cov_a, cov_b)

    return distance


def frechet_once(mean_a, cov_a, mean_b, cov_b):
    half = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt().sum()
    return (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - half


def frechet_with_offset(mean_a, cov_a, mean_b, cov_b):
    # The offset of 1e-6 of the public implementations (bioinf-jku/TTUR, mseitzer/pytorch-fid).
    offset = 1e-6 * torch.eye(len(cov_a), dtype=cov_a.dtype)
    overlap = _root(_root(cov_a + offset) @ (cov_b + offset) @ _root(cov_a + offset)).trace()
    return (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * overlap


# ---------------------------------------------------------------------------- 17.3


def judge_with_flag(network, images, batch_size):
    before = network.training
    network.eval()
    with torch.no_grad():
        rows = [network((part + 1) / 2) for part in images.split(batch_size)]
    network.train(before)
    return torch.cat(rows)


@torch.inference_mode()
def judge_by_copy(network, images, batch_size):
    import copy

    twin = copy.deepcopy(network).eval()
    out = []
    for i in range(0, len(images), batch_size):
        out.append(twin(images[i : i + batch_size].mul(0.5).add(0.5)))
    return torch.cat(out)


def judge_and_detach(network, images, batch_size):
    modes = {m: m.training for m in network.modules()}
    network.eval()
    try:
        loader = torch.utils.data.DataLoader(images, batch_size=batch_size)
        return torch.cat([network((x + 1) / 2).detach() for x in loader])
    finally:
        for m, training in modes.items():
            m.training = training


def judge_in_train_mode(network, images, batch_size):
    # sangwoomo/FreezeD issue 3: no eval() before the features of the FID
    with torch.no_grad():
        network.train()
        return torch.cat([network((x + 1) / 2) for x in images.split(batch_size)])


def judge_after_a_first_look(network, images, batch_size):
    with torch.no_grad():
        width = network((images[:2] + 1) / 2).shape[1]  # in whatever mode it is
    rows = judge_with_flag(network, images, batch_size)
    assert rows.shape[1] == width
    return rows


@torch.no_grad()
def judge_and_stay(network, images, batch_size):
    network.eval()
    return torch.cat([network((x + 1) / 2) for x in images.split(batch_size)])


def judge_raw(network, images, batch_size):
    return judge_with_flag(network, 2 * images - 1, batch_size)


def judge_signed(network, images, batch_size):
    return judge_with_flag(network, 4 * images - 3, batch_size)


def judge_stretched(network, images, batch_size):
    parts = images.split(batch_size)
    unit = torch.cat([(x - x.min()) / (x.max() - x.min()) for x in parts])
    return judge_with_flag(network, 2 * unit - 1, batch_size)


def judge_frozen(network, images, batch_size):
    network.requires_grad_(False)
    return judge_with_flag(network, images, batch_size)


def judge_whole_batches(network, images, batch_size):
    n = len(images) // batch_size * batch_size
    return judge_with_flag(network, images[:n], batch_size)


def judge_at_once(network, images, batch_size):
    return judge_with_flag(network, images, len(images))


def judge_with_graph(network, images, batch_size):
    before = network.training
    network.eval()
    rows = torch.cat([network((x + 1) / 2) for x in images.split(batch_size)])
    network.train(before)
    return rows


# ---------------------------------------------------------------------------- 17.4


def infinity_by_polyfit(sizes, distances):
    return float(np.polyfit(1 / sizes.numpy(), distances.numpy(), 1)[1])


def infinity_by_sums(sizes, distances):
    x = 1 / sizes
    slope = ((x - x.mean()) * (distances - distances.mean())).sum() / (x - x.mean()).square().sum()
    return distances.mean() - slope * x.mean()


def infinity_by_lstsq(sizes, distances):
    design = torch.stack([torch.ones_like(sizes), sizes.reciprocal()], dim=1)
    return torch.linalg.lstsq(design, distances.unsqueeze(1)).solution[0, 0]


def infinity_over(x_of):
    def value(sizes, distances):
        return float(np.polyfit(x_of(sizes.numpy()), distances.numpy(), 1)[1])

    return value


def infinity_of_ends(sizes, distances):
    x = 1 / sizes
    i, j = sizes.argmin(), sizes.argmax()
    slope = (distances[i] - distances[j]) / (x[i] - x[j])
    return distances[j] - slope * x[j]


# ---------------------------------------------------------------------------- 17.5


def _kernel(a, b):
    return (a @ b.T / a.shape[1] + 1) ** 3


def mmd_by_traces(x, y):
    n, m = len(x), len(y)
    k_x, k_y = _kernel(x, x), _kernel(y, y)
    return (
        (k_x.sum() - k_x.trace()) / (n * (n - 1))
        + (k_y.sum() - k_y.trace()) / (m * (m - 1))
        - 2 * _kernel(x, y).mean()
    )


def mmd_by_loop(x, y):
    def k(a, b):
        return ((a * b).sum() / len(a) + 1) ** 3

    def average(values):
        return sum(values) / len(values)

    n, m = len(x), len(y)
    within_x = average([k(x[i], x[j]) for i in range(n) for j in range(n) if i != j])
    within_y = average([k(y[i], y[j]) for i in range(m) for j in range(m) if i != j])
    return within_x + within_y - 2 * average([k(a, b) for a in x for b in y])


def mmd_by_triangles(x, y):
    def upper(k):
        rows, columns = torch.triu_indices(len(k), len(k), 1, device=k.device)
        return k[rows, columns].mean()

    across = torch.einsum("id,jd->ij", x, y).div(x.shape[1]).add(1).pow(3).mean()
    return upper(_kernel(x, x)) + upper(_kernel(y, y)) - 2 * across


def mmd_by_mask(x, y):
    def off_diagonal(k):
        mask = 1 - torch.eye(len(k), dtype=k.dtype, device=k.device)
        return (k * mask).sum() / mask.sum()

    return off_diagonal(_kernel(x, x)) - 2 * _kernel(x, y).mean() + off_diagonal(_kernel(y, y))


def mmd_by_mask_on_the_cpu(x, y):
    def off_diagonal(k):
        return k.masked_fill(torch.eye(len(k)).bool(), 0).sum() / (len(k) * (len(k) - 1))

    return off_diagonal(_kernel(x, x)) - 2 * _kernel(x, y).mean() + off_diagonal(_kernel(y, y))


def mmd_over_n_squared(x, y):
    def off_diagonal(k):
        return (k.sum() - k.trace()) / len(k) ** 2

    return off_diagonal(_kernel(x, x)) - 2 * _kernel(x, y).mean() + off_diagonal(_kernel(y, y))


def mmd_by_half(x, y):
    def upper(k):
        return k.triu(diagonal=1).sum() / (len(k) * (len(k) - 1))

    return upper(_kernel(x, x)) - 2 * _kernel(x, y).mean() + upper(_kernel(y, y))


def mmd_without_pairs_across(x, y):
    def off_diagonal(k):
        return (k.sum() - k.diagonal().sum()) / (k.shape[0] * (k.shape[1] - 1))

    return (
        off_diagonal(_kernel(x, x)) + off_diagonal(_kernel(y, y)) - 2 * off_diagonal(_kernel(x, y))
    )


def mmd_with_kernel(kernel):
    def value(x, y):
        k_x, k_y = kernel(x, x), kernel(y, y)
        n, m = len(x), len(y)
        within = (k_x.sum() - k_x.trace()) / (n * (n - 1))
        within = within + (k_y.sum() - k_y.trace()) / (m * (m - 1))
        return within - 2 * kernel(x, y).mean()

    return value


# ---------------------------------------------------------------------------- 17.6


def pr_by_cdist(real, fake, k):
    radius_real = torch.cdist(real, real).kthvalue(k + 1, dim=1).values
    radius_fake = torch.cdist(fake, fake).kthvalue(k + 1, dim=1).values
    between = torch.cdist(real, fake)
    precision = (between < radius_real[:, None]).any(0).double().mean()
    recall = (between < radius_fake[None]).any(1).double().mean()
    return precision, recall


def pr_by_loop(real, fake, k):
    def inside(points, centres):
        radii = []
        for i, c in enumerate(centres):
            others = torch.cat([centres[:i], centres[i + 1 :]])
            radii.append((others - c).norm(dim=1).sort().values[k - 1])
        radii = torch.stack(radii)
        hits = [((centres - p).norm(dim=1) < radii).any().item() for p in points]
        return sum(hits) / len(hits)

    return inside(fake, real), inside(real, fake)


def pr_by_trees(real, fake, k):
    def inside(points, centres):
        tree = scipy.spatial.cKDTree(centres.numpy())
        radii = tree.query(centres.numpy(), k=[k + 1])[0][:, 0]
        distances = scipy.spatial.distance.cdist(points.numpy(), centres.numpy())
        return float((distances < radii).any(axis=1).mean())

    return inside(fake, real), inside(real, fake)


def pr_with(radius=None, power=1, gather=torch.any):
    def value(real, fake, k):
        radius_real, radius_fake = (
            torch.cdist(z, z).sort(dim=1).values[:, k] if radius is None else radius(z, k)
            for z in (real, fake)
        )
        between = torch.cdist(real, fake) ** power
        precision = gather(between < radius_real[:, None], 0).double().mean()
        return precision.item(), gather(between < radius_fake, 1).double().mean().item()

    return value


def pr_nearest(real, fake, k):
    radius_real = torch.cdist(real, real).kthvalue(k + 1, dim=1).values
    radius_fake = torch.cdist(fake, fake).kthvalue(k + 1, dim=1).values
    to_real, to_fake = torch.cdist(fake, real).min(1), torch.cdist(real, fake).min(1)
    precision = (to_real.values < radius_real[to_real.indices]).double().mean()
    return precision, (to_fake.values < radius_fake[to_fake.indices]).double().mean()


def pr_of_balls(real, fake, k):
    radius_real = torch.cdist(real, real).kthvalue(k + 1, dim=1).values
    radius_fake = torch.cdist(fake, fake).kthvalue(k + 1, dim=1).values
    between = torch.cdist(real, fake)
    first = (between < radius_real[:, None]).any(1).double().mean()
    return first, (between < radius_fake[None]).any(0).double().mean()


def pr_own_balls(real, fake, k):
    return pr_of_balls(real, fake, k)[::-1]


def pr_with_surface(real, fake, k):
    radius_real = torch.cdist(real, real).kthvalue(k + 1, dim=1).values
    radius_fake = torch.cdist(fake, fake).kthvalue(k + 1, dim=1).values
    between = torch.cdist(real, fake)
    precision = (between <= radius_real[:, None]).any(0).double().mean()
    return precision, (between <= radius_fake[None]).any(1).double().mean()


def pr_across(real, fake, k):
    between = torch.cdist(real, fake)
    radius_real = between.kthvalue(k, dim=1).values
    radius_fake = between.kthvalue(k, dim=0).values
    precision = (between < radius_real[:, None]).any(0).double().mean()
    return precision, (between < radius_fake[None]).any(1).double().mean()


def pr_coverage(real, fake, k):
    radius = torch.cdist(real, real).kthvalue(k + 1, dim=1).values
    inside = torch.cdist(real, fake) < radius[:, None]
    return inside.any(0).double().mean(), inside.any(1).double().mean()


# ---------------------------------------------------------------------------- 17.7


def parzen_direct(samples, x, sigma):
    n, d = samples.shape
    squared = (x[:, None] - samples).square().sum(2)
    log_sum = torch.logsumexp(-squared / (2 * sigma**2), 1)
    return log_sum - math.log(n) - d / 2 * math.log(2 * math.pi * sigma**2)


def parzen_by_loop(samples, x, sigma):
    values = []
    for point in x:
        logs = torch.stack([Normal(s, sigma).log_prob(point).sum() for s in samples])
        top = logs.max()
        values.append(top + (logs - top).exp().mean().log())
    return torch.stack(values)


def parzen_by_mixture(samples, x, sigma):
    kernels = Independent(Normal(samples, sigma), 1)
    weights = Categorical(logits=torch.zeros(len(samples), dtype=x.dtype, device=x.device))
    return MixtureSameFamily(weights, kernels).log_prob(x)


def parzen_naive(samples, x, sigma):
    density = Independent(Normal(samples, sigma), 1).log_prob(x[:, None]).exp().mean(1)
    return density.log()


def parzen_with_epsilon(samples, x, sigma):
    log_density = Independent(Normal(samples, sigma), 1).log_prob(x[:, None])
    return (log_density.exp().mean(1) + 1e-30).log()


def parzen_wrong(exponent=None, copies=None, forget_n=False):
    def value(samples, x, sigma):
        n, d = samples.shape
        squared = (x[:, None] - samples).square().sum(2)
        e = -squared / (2 * sigma**2) if exponent is None else exponent(squared, sigma)
        c = d if copies is None else copies
        log_n = 0.0 if forget_n else math.log(n)
        return torch.logsumexp(e, 1) - log_n - c / 2 * math.log(2 * math.pi * sigma**2)

    return value


# ---------------------------------------------------------------------------- 17.8


def moments_half_merged(batches):
    count, mean, scatter = 0, 0.0, 0.0
    for batch in batches:
        b = batch.double()
        n, m = len(b), b.mean(0)
        mean = (count * mean + n * m) / (count + n)
        scatter = scatter + (b - m).T @ (b - m) + (n * torch.outer(m - mean, m - mean))
        count += n
    return mean, scatter / (count - 1)


def moments_counted_too_early(batches):
    count, mean, scatter = 0, 0.0, 0.0
    for batch in batches:
        b = batch.double()
        n, m = len(b), b.mean(0)
        gap, first = m - mean, count == 0
        mean = mean + gap * n / (count + n)
        count += n
        share = 0 if first else count * n / (count + n)
        scatter = scatter + (b - m).T @ (b - m) + share * torch.outer(gap, gap)
    return mean, scatter / (count - 1)


def moments_two_passes(batches):
    x = torch.cat(batches).double()
    centred = x - x.mean(0)
    return x.mean(0), centred.T @ centred / (len(x) - 1)


def moments_merged(batches):
    count, mean, scatter = 0, 0.0, 0.0
    for batch in batches:
        b = batch.double()
        n, m = len(b), b.mean(0)
        s = (b - m).T @ (b - m)
        total = count + n
        gap = m - mean
        scatter = scatter + s + torch.outer(gap, gap) * count * n / total
        mean = mean + gap * n / total
        count = total
    return mean, scatter / (count - 1)


def moments_one_by_one(batches):
    count, mean, scatter = 0, None, None
    for batch in batches:
        for row in batch.double():
            if mean is None:
                mean, scatter = torch.zeros_like(row), torch.zeros(len(row), len(row)).double()
            count += 1
            before = row - mean
            mean = mean + before / count
            scatter = scatter + torch.outer(before, row - mean)
    return mean, scatter / (count - 1)


def moments_from_the_first_row(batches):
    origin = batches[0][0].double()
    count, first, second = 0, 0.0, 0.0
    for batch in batches:
        z = batch.double() - origin
        count, first, second = count + len(z), first + z.sum(0), second + z.T @ z
    mean = first / count
    return origin + mean, (second - count * torch.outer(mean, mean)) / (count - 1)


def moments_left_there(batches):
    origin = batches[0][0].double()
    mean, covariance = moments_from_the_first_row(batches)
    return mean - origin, covariance


def moments_raw(batches):
    count = sum(len(b) for b in batches)
    mean = sum(b.double().sum(0) for b in batches) / count
    second = sum(b.double().T @ b.double() for b in batches)
    return mean, (second - count * torch.outer(mean, mean)) / (count - 1)


def moments_of_batches(batches):
    mean = torch.stack([b.double().mean(0) for b in batches]).mean(0)
    return mean, torch.stack([b.double().T.cov() for b in batches]).mean(0)


def moments_with_mean_covariance(batches):
    x = torch.cat(batches).double()
    return x.mean(0), sum(torch.cov(b.double().T) for b in batches) / len(batches)


def moments_within(batches):
    x = torch.cat(batches).double()
    scatter = sum((b - b.mean(0)).T @ (b - b.mean(0)) for b in (b.double() for b in batches))
    return x.mean(0), scatter / (len(x) - 1)


def moments_population(batches):
    x = torch.cat(batches).double()
    return x.mean(0), torch.from_numpy(np.cov(x.numpy(), rowvar=False, ddof=0))


def moments_about_zero(batches):
    x = torch.cat(batches).double()
    return x.mean(0), x.T @ x / len(x)


def moments_of_rows(batches):
    # lucidrains/denoising-diffusion-pytorch issue 213: torch.cov has no rowvar=False
    x = torch.cat(batches).double()
    return x.mean(0), torch.cov(x)


def moments_in_single(batches):
    x = torch.cat(batches)
    return x.mean(0).double(), x.T.cov().double()


def moments_in_their_type(batches):
    x = torch.cat(batches)
    return x.mean(0), x.T.cov()


def moments_merged_covariances(batches):
    count, mean, cov = 0, 0.0, 0.0
    for batch in batches:
        b = batch.double()
        n, m = len(b), b.mean(0)
        gap = m - mean
        within = cov * (count - 1) + (b - m).T @ (b - m) / (n - 1) * (n - 1)
        cov = (within + torch.outer(gap, gap) * count * n / (count + n)) / (count + n - 1)
        mean = mean + gap * n / (count + n)
        count += n
    return mean, cov


BANK = {
    "inception_score": Answers(
        right={
            "entropies": score_by_entropies,
            "loop": score_by_loop,
            "distributions": score_by_distributions,
            "epsilon": score_with_epsilon,
        },
        wrong={
            "no exponential": lambda p: torch.xlogy(p, p / p.mean(0)).sum(1).mean(),
            # the third point of openai/improved-gan issue 29 discusses the order of the two
            "mean of exponentials": lambda p: torch.xlogy(p, p / p.mean(0)).sum(1).exp().mean(),
            "other direction": lambda p: (
                kl_divergence(Categorical(probs=p.mean(0, keepdim=True)), Categorical(probs=p))
                .mean()
                .exp()
            ),
            "classes of the whole set only": lambda p: Categorical(probs=p.mean(0)).entropy().exp(),
            "averaged over classes": lambda p: torch.xlogy(p, p / p.mean(0)).mean().exp(),
            "softmax again": lambda p: score_by_entropies(torch.softmax(p, 1)),
            "mean over the wrong axis": lambda p: (
                (torch.special.entr(p.mean(1)) * p.shape[1] - torch.special.entr(p).sum(1))
                .mean()
                .exp()
            ),
            "entropies exchanged": lambda p: 1 / score_by_entropies(p),
            "not finite": score_by_ratio,
        },
    ),
    "gaussian_frechet": Answers(
        right={
            "eigenvalues": frechet_by_eigenvalues,
            "symmetric roots": frechet_by_symmetric_roots,
            "nuclear norm": frechet_by_nuclear_norm,
            "loop": frechet_by_loop,
        },
        wrong={
            "root of a negative number": frechet_by_unclamped_eigenvalues,
            "no root": frechet_with(lambda a, b: torch.trace(a @ b)),
            "root of the entries": frechet_with(lambda a, b: torch.sqrt(a @ b).trace()),
            "root of the trace": frechet_with(lambda a, b: torch.sqrt(torch.trace(a @ b))),
            "roots multiplied": frechet_with(lambda a, b: (_root(a) @ _root(b)).trace()),
            "means not squared": lambda m, a, n, b: (
                frechet_by_eigenvalues(0 * m, a, 0 * n, b) + torch.linalg.norm(m - n)
            ),
            "means forgotten": lambda m, a, n, b: frechet_by_nuclear_norm(m, a, m, b),
            "factor two forgotten": frechet_once,
            "root at the end": lambda *args: frechet_by_eigenvalues(*args).sqrt(),
            "diagonals only": lambda m, a, n, b: (
                (m - n).square().sum() + (a.diagonal().sqrt() - b.diagonal().sqrt()).square().sum()
            ),
            "routine for symmetric matrices": frechet_with(
                lambda a, b: torch.linalg.eigvalsh(a @ b).clamp(min=0).sqrt().sum()
            ),
            "singular values of the product": frechet_with(
                lambda a, b: torch.linalg.svd(a @ b)[1].sqrt().sum()
            ),
            # bioinf-jku/TTUR issue 4, mseitzer/pytorch-fid issue 13: complex numbers, and NaN
            "complex": frechet_with(lambda a, b: torch.linalg.eigvals(a @ b).sqrt().sum()),
            "something added to the diagonal": frechet_with_offset,
            "not finite": frechet_with(lambda a, b: torch.linalg.eigvals(a @ b).real.sqrt().sum()),
        },
    ),
    "judge_features": Answers(
        right={
            "flag": judge_with_flag,
            "copy": judge_by_copy,
            "data loader": judge_and_detach,
        },
        wrong={
            "train mode": judge_in_train_mode,
            "statistics moved": judge_after_a_first_look,
            "mode not given back": judge_and_stay,
            "range not mapped": judge_raw,
            "range mapped wrongly": judge_signed,
            "stretched": judge_stretched,
            "left frozen": judge_frozen,
            "last batch dropped": judge_whole_batches,
            "all at once": judge_at_once,
            "graph kept": judge_with_graph,
        },
    ),
    "distance_at_infinity": Answers(
        right={
            "polyfit": infinity_by_polyfit,
            "sums": infinity_by_sums,
            "least squares": infinity_by_lstsq,
        },
        wrong={
            "line over n": infinity_over(lambda n: n),
            "over the root of n": infinity_over(lambda n: n**-0.5),
            "slope": lambda n, d: float(np.polyfit(1 / n.numpy(), d.numpy(), 1)[0]),
            "largest sample only": lambda n, d: d[n.argmax()],
            "average": lambda n, d: d.mean(),
            "two ends only": infinity_of_ends,
            "clamped": lambda n, d: infinity_by_sums(n, d).clamp(min=0),
        },
    ),
    "unbiased_kernel_distance": Answers(
        right={
            "traces": mmd_by_traces,
            "loop": mmd_by_loop,
            "triangles": mmd_by_triangles,
            "mask": mmd_by_mask,
        },
        wrong={
            # google-research/google-research issue 1926: the mean over all entries
            "diagonal kept": lambda x, y: (
                _kernel(x, x).mean() - 2 * _kernel(x, y).mean() + _kernel(y, y).mean()
            ),
            "divided by n squared": mmd_over_n_squared,
            "sign removed": lambda x, y: mmd_by_traces(x, y).abs(),
            "pairs left out across": mmd_without_pairs_across,
            "factor two forgotten": lambda x, y: mmd_by_traces(x, y) + _kernel(x, y).mean(),
            "not divided by d": mmd_with_kernel(lambda a, b: (a @ b.T + 1) ** 3),
            "no one added": mmd_with_kernel(lambda a, b: (a @ b.T / a.shape[1]) ** 3),
            "each pair once": mmd_by_half,
            "one inside the division": mmd_with_kernel(
                lambda a, b: ((a @ b.T + 1) / len(a[0])) ** 3
            ),
            "minus sign": lambda x, y: -mmd_by_traces(x, y),
            "clamped": lambda x, y: torch.relu(mmd_by_traces(x, y)),
            "root taken": lambda x, y: mmd_by_traces(x, y).sqrt(),
            "no gradient": lambda x, y: mmd_by_traces(x.detach(), y.detach()),
            "wrong device": mmd_by_mask_on_the_cpu,
        },
    ),
    "precision_and_recall": Answers(
        right={
            "table of distances": pr_by_cdist,
            "loop": pr_by_loop,
            "trees": pr_by_trees,
        },
        wrong={
            "its own neighbour": pr_with(lambda z, k: torch.cdist(z, z).kthvalue(k).values),
            "one neighbour too far": pr_with(
                lambda z, k: torch.cdist(z, z).fill_diagonal_(math.inf).kthvalue(k + 1).values
            ),
            "swapped": lambda r, f, k: pr_by_cdist(r, f, k)[::-1],
            "coverage for recall": pr_coverage,
            "one radius for all": pr_with(
                lambda z, k: torch.cdist(z, z).kthvalue(k + 1).values.mean().repeat(len(z))
            ),
            "nearest ball only": pr_nearest,
            "squared against plain": pr_with(power=2),
            "all balls": pr_with(gather=torch.all),
            "radius to the other set": pr_across,
            "average number of balls": pr_with(gather=lambda hits, axis: hits.double().mean(axis)),
            "balls counted": pr_of_balls,
            "own ball": pr_own_balls,
            "surface counted": pr_with_surface,
        },
    ),
    "parzen_log_density": Answers(
        right={
            "logsumexp": parzen_direct,
            "loop": parzen_by_loop,
            "distributions": parzen_by_mixture,
        },
        wrong={
            "mean of logarithms": lambda s, x, sigma: (
                Independent(Normal(s, sigma), 1).log_prob(x[:, None]).mean(1)
            ),
            "number of samples forgotten": parzen_wrong(forget_n=True),
            "dimension forgotten": parzen_wrong(copies=1),
            "sigma not squared": parzen_wrong(lambda squared, sigma: -squared / (2 * sigma)),
            "sigma as a variance": lambda s, x, sigma: parzen_direct(s, x, math.sqrt(sigma)),
            "a small number added": parzen_with_epsilon,
            "half forgotten": parzen_wrong(lambda squared, sigma: -squared / sigma**2),
            "no constant": parzen_wrong(copies=0),
            "averaged over the test points": lambda *args: parzen_direct(*args).mean(),
            "not finite": parzen_naive,
            "no gradient": lambda s, x, sigma: parzen_direct(s.detach(), x.detach(), sigma),
        },
    ),
    "moments_in_batches": Answers(
        right={
            "two passes": moments_two_passes,
            "merged": moments_merged,
            "one by one": moments_one_by_one,
            "from the first row": moments_from_the_first_row,
        },
        wrong={
            "mean of batch means": moments_of_batches,
            "mean of batch covariances": moments_with_mean_covariance,
            "between the batches forgotten": moments_within,
            "one side of the merge": moments_half_merged,
            "count raised too early": moments_counted_too_early,
            "not moved back": moments_left_there,
            "denominator n": moments_population,
            "not centred": moments_about_zero,
            "wrong shape": moments_of_rows,
            "raw sums": moments_raw,
            "float32 sums": moments_in_single,
            "not finite": moments_merged_covariances,
            "float32 returned": moments_in_their_type,
        },
    ),
}
