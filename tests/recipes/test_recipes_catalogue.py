"""The named recipes: what they build, how they begin, and what their scores mean."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from course_lib import data, environment, metrics, training
from course_lib.recipes import catalogue, evaluation, families, networks, pretrained, runs
from course_lib.recipes.catalogue import RECIPES
from course_lib.training import train

SMALL = {"width": 8, "samples": 20, "test_images": 20, "importance_samples": 3, "batch_size": 20}
SMALL |= {"centroids": 20, "centroid_rounds": 2}


def small_run(name, steps=3, **settings):
    """A run of a recipe with little of everything, on what needs no download."""
    known = RECIPES[name].settings
    settings = {k: v for k, v in SMALL.items() if k in known} | settings
    if "digits" in RECIPES[name].choices["data"]:
        settings = {"data": "digits"} | settings
    config = runs.configure(name, "smoke", steps, settings=settings)
    return runs.Run(config, Path("nowhere"))


@pytest.fixture(autouse=True)
def few_sprites(monkeypatch):
    """300 sprites in place of 12,000, which take their time."""
    load = data.load

    def loading(name, split="train", **options):
        if name != "sprites":
            return load(name, split, **options)
        n, seed = (200, 0) if split == "train" else (100, 1)
        return data.sprites(n, options["image_size"], torch.Generator().manual_seed(seed))

    monkeypatch.setattr(data, "load", loading)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_draws_and_is_scored(name):
    run = small_run(name)
    model = run.model
    history = train(model.state, model.step, model.batches, 3, progress=False)
    assert all(math.isfinite(v) for values in history.values() for v in values)
    rows = run.evaluate()
    assert rows == run.evaluate()  # its draws have a seed of their own
    assert all(r["value"] is None or math.isfinite(r["value"]) for r in rows)
    assert all(0 < r["n"] <= 300 for r in rows)
    assert len({r["measure"] for r in rows}) == len(rows)
    images = model.draw(10, torch.Generator().manual_seed(0))
    assert images.shape == (10, *run.train_set.shape)
    assert 0 <= images.min() and images.max() <= 1


@pytest.mark.parametrize("name", RECIPES)
def test_the_settings_of_a_recipe_agree_with_each_other(name):
    recipe = RECIPES[name]
    assert set(recipe.steps) == set(environment.PROFILES)
    assert recipe.steps["smoke"] <= recipe.steps["laptop"] <= recipe.steps["gpu"]
    for profile in environment.PROFILES:
        chosen = recipe.defaults(profile)
        assert chosen.keys() == recipe.settings.keys(), "a profile sets what is not there"
        for key, value in chosen.items():
            assert type(value) is type(recipe.settings[key])
            assert value in recipe.choices.get(key, (value,))
    measures = {r["measure"] for r in small_run(name, 1).evaluate()}
    if "latent_dim" in recipe.settings and name == "deep_autoencoder_mnist":
        assert recipe.settings["latent_dim"] == 30
    assert {f.measure for f in recipe.paper} <= measures


@pytest.mark.parametrize("name", ["vae_mnist", "dcgan_mnist", "cvae_sprites"])
def test_precision_and_memory_order_are_settings(name):
    """bfloat16 moves the losses a little, the order of memory not beyond rounding."""

    def losses(**settings):
        model = small_run(name, 2, **settings).model
        history = train(model.state, model.step, model.batches, 2, progress=False)
        return torch.tensor([values[-1] for values in history.values()])

    exact = losses()
    rough = losses(precision="bfloat16")
    assert not torch.equal(exact, rough)
    assert torch.allclose(exact, rough, rtol=0.05, atol=0.5)
    if "channels_last" in RECIPES[name].settings:
        assert torch.allclose(exact, losses(channels_last=True), rtol=1e-3, atol=1e-3)
    if "reuse_fakes" in RECIPES[name].settings:
        assert torch.isfinite(losses(reuse_fakes=True)).all()
    with pytest.raises(ValueError, match="precision"):
        losses(precision="half")


def test_figures_belong_to_the_settings_of_the_paper():
    def shown(name, profile="gpu", **settings):
        config = runs.configure(name, profile, settings=settings)
        return [f.value for f in RECIPES[name].figures(config.settings)]

    assert shown("vae_mnist") == [86.76, 19] and shown("vae_mnist", beta=2.0) == []
    assert shown("vae_mnist", k=5) == [86.47, 20] and shown("vae_mnist", k=50) == [86.35, 20]
    assert shown("vae_mnist", k=5, data="binarized_mnist") == [88.83, 19]
    assert shown("iwae_mnist", k=50) == [84.78, 25] and shown("iwae_mnist", k=5) == [85.54, 22]
    assert shown("iwae_mnist", k=7) == [] and shown("iwae_mnist", width=100) == []
    assert shown("iwae_mnist", k=5, data="binarized_mnist") == [87.63, 22]
    assert shown("gan_mnist_parzen") == [225.0] and shown("gan_mnist_parzen", data="digits") == []
    assert shown("deep_autoencoder_mnist") == [3.0, 13.87]
    assert shown("dcgan_fashion") == []  # published distances are those of other features


def test_an_unknown_recipe_gets_the_nearest_name():
    with pytest.raises(ValueError, match="did you mean 'dcgan_mnist'"):
        catalogue.get("dcgan-mnits")


def test_the_networks_of_the_papers_have_their_sizes():
    def sizes(module):
        return [tuple(m.weight.shape[::-1]) for m in module.modules() if isinstance(m, nn.Linear)]

    vae = networks.tanh_vae((1, 28, 28), 50, (200, 200))
    assert sizes(vae.encoder) == [(784, 200), (200, 200), (200, 50), (200, 50)]
    assert sizes(vae.decoder) == [(50, 200), (200, 200), (200, 784)]
    assert sum(isinstance(m, nn.Tanh) for m in vae.modules()) == 4
    assert not any(isinstance(m, nn.ReLU) for m in vae.modules())
    model = runs.Run(
        runs.configure("deep_autoencoder_mnist", "gpu", settings={"data": "digits"}),
        Path("nowhere"),
    ).model.state.modules["autoencoder"]
    assert sizes(model.encoder) == [(784, 1000), (1000, 500), (500, 250), (250, 30)]
    assert sizes(model.decoder) == [(30, 250), (250, 500), (500, 1000), (1000, 784)]
    recipe = RECIPES["gan_mnist_parzen"].defaults("gpu")
    generator = networks.relu_generator((1, 28, 28), recipe["latent_dim"], recipe["width"])
    assert sizes(generator) == [(100, 1200), (1200, 1200), (1200, 784)]
    discriminator = networks.maxout_discriminator((1, 28, 28), recipe["discriminator_width"])
    assert sizes(discriminator) == [(784, 240 * 5), (240, 240 * 5), (240, 1)]
    assert [m.p for m in discriminator if isinstance(m, nn.Dropout)] == [0.2, 0.5, 0.5]


def test_a_tanh_vae_begins_at_the_mean_of_the_data():
    mean = torch.rand(1, 6, 6) * 0.8 + 0.1
    vae = networks.tanh_vae((1, 6, 6), 2, (5, 5), mean)
    assert torch.allclose(vae.decode(torch.zeros(1, 2)).sigmoid()[0], mean, atol=1e-6)


def test_the_generator_of_2014_begins_at_the_mean_of_the_data_and_black_pixels_count_nothing():
    mean = torch.rand(1, 6, 6) * 0.8 + 0.1
    generator = networks.relu_generator((1, 6, 6), 4, 5, mean)
    assert torch.allclose((generator(torch.zeros(1, 4))[0] + 1) / 2, mean, atol=1e-6)
    discriminator = networks.maxout_discriminator((1, 6, 6), 3, 0.0, 1.0)
    x = torch.rand(4, 1, 6, 6) * 2 - 1
    assert torch.equal(discriminator(-torch.ones(4, 1, 6, 6)), torch.zeros(4))
    assert torch.equal(discriminator(x), torch.zeros(4))  # all pixels dropped
    assert not torch.equal(discriminator.eval()(x), torch.zeros(4))


def test_gradient_descent_of_2014_follows_its_schedules():
    settings = {"learning_rate": 0.1, "discriminator_learning_rate": 0.05, "momentum_epochs": 5}
    run = small_run("gan_mnist_parzen", optimizer="sgd", **settings)
    state, epoch = run.model.state, run.model.batches.batches_per_epoch
    x, seen = next(run.model.batches), []
    for step in (0, 2 * epoch - 1, 3 * epoch, 50 * epoch):
        state.step = step
        run.model.step(state, x)
        groups = [state.optimizers[n].param_groups[0] for n in ("generator", "discriminator")]
        assert groups[0]["lr"] == pytest.approx(0.1 / 1.000004**step)
        assert groups[1]["lr"] == pytest.approx(0.05 / 1.000004**step)
        assert groups[0]["momentum"] == groups[1]["momentum"]
        seen.append(groups[0]["momentum"])
    assert seen == pytest.approx([0.5, 0.5, 0.6, 0.7])


def test_the_first_update_of_gradient_descent_is_the_gradient():
    run = small_run("gan_mnist_parzen", optimizer="sgd", momentum=0.5, learning_rate=0.1)
    generator = run.model.state.modules["generator"]
    before = [p.detach().clone() for p in generator.parameters()]
    run.model.step(run.model.state, next(run.model.batches))
    for old, new in zip(before, generator.parameters(), strict=True):
        assert torch.allclose(new, old - 0.1 * new.grad, atol=1e-7)
    adam = small_run("gan_mnist_parzen", optimizer="adam").model.state.optimizers["generator"]
    assert isinstance(adam, torch.optim.Adam)


def test_k_draws_give_the_mean_of_k_bounds():
    model, x = small_run("vae_mnist", k=4).model, None
    state, x = model.state, next(model.batches).round()
    vae = state.modules["vae"]
    noise = torch.Generator().set_state(state.generator.get_state())
    mu, log_var = (t.double() for t in vae.encode(x))
    q = torch.distributions.Normal(mu, (0.5 * log_var).exp())
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(1).mean()
    z = (mu + q.stddev * torch.randn(4 * len(x), 50, generator=noise).view(4, len(x), 50)).float()
    logits = vae.decode(z.flatten(0, 1)).double()
    bernoulli = torch.distributions.Bernoulli(logits=logits)
    log_p = bernoulli.log_prob(x.double().repeat(4, 1, 1, 1)).flatten(1).sum(1).mean()
    found = families.averaged_step(state, x, k=4, beta=2.0)
    assert found["reconstruction"].item() == pytest.approx(log_p.item(), rel=1e-5)
    assert found["kl"].item() == pytest.approx(kl.item(), rel=1e-5)
    assert found["loss"].item() == pytest.approx((2 * kl - log_p).item(), rel=1e-5)


def test_one_draw_of_the_average_is_the_ordinary_step():
    weights = []
    for step in (training.vae_step, partial(families.averaged_step, k=1)):
        model = small_run("vae_mnist").model
        x = next(model.batches).round()
        values = step(model.state, x, beta=1.5)
        parameters = model.state.modules["vae"].parameters()
        weights.append([*values.values(), *(p.detach() for p in parameters)])
    assert all(map(torch.equal, *weights))


def test_stages_of_the_learning_rate_are_powers_of_three():
    stages = torch.tensor([families.stage(step, 3280) for step in range(3280)])
    assert stages.bincount().tolist() == [3**i for i in range(8)]
    run = small_run("vae_mnist", steps=3280)
    model, rates = run.model, []
    for step in (0, 1, 3279):
        model.state.step = step
        model.step(model.state, next(model.batches))
        rates.append(model.state.optimizers["vae"].param_groups[0]["lr"])
    first = run.config.settings["learning_rate"]
    assert rates == pytest.approx([first, first * 10 ** (-1 / 7), first / 10])


def test_the_rate_of_the_likelihood_recipes_is_the_papers_per_image_of_a_batch():
    for name in ("vae_mnist", "iwae_mnist"):
        settings = catalogue.get(name).settings
        assert settings["learning_rate"] / settings["batch_size"] == pytest.approx(1e-3 / 20)


def test_binarised_images_have_the_right_mean_and_binary_ones_stay():
    x = torch.tensor([0.0, 0.2, 0.7, 1.0]).repeat(20_000, 1)
    drawn = families.binarised(x, torch.Generator().manual_seed(0))
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert torch.allclose(drawn.mean(0), x[0], atol=4 * 0.5 / math.sqrt(20_000))
    assert torch.equal(families.binarised(drawn, torch.Generator()), drawn)


def test_spectral_normalisation_makes_the_largest_singular_value_one():
    state = small_run("sngan_hinge_fashion").model.state
    discriminator = state.modules["discriminator"]
    assert not any(isinstance(m, nn.BatchNorm2d) for m in discriminator.modules())
    x = torch.rand(4, 1, 28, 28)
    for _ in range(200):  # each pass is one step of power iteration
        discriminator(x)
    layers = [m for m in discriminator.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 3
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, 1e-3)


def test_the_critic_of_a_gradient_penalty_has_no_batch_norm():
    model = small_run("wgan_gp_fashion").model
    assert not any(
        isinstance(m, nn.BatchNorm2d) for m in model.state.modules["discriminator"].modules()
    )
    assert "penalty" in train(model.state, model.step, model.batches, 1, progress=False)


def test_maxout_takes_the_largest_of_its_pieces():
    layer, x = networks.Maxout(4, 3, pieces=5), torch.randn(6, 4)
    pieces = (x @ layer.linear.weight.T + layer.linear.bias).view(6, 3, 5)
    assert torch.allclose(layer(x), pieces.max(2).values)


def test_a_conditional_vae_depends_on_the_label_and_its_batches_bring_theirs():
    run = small_run("cvae_sprites")
    model, vae = run.model, run.model.state.modules["vae"]
    x = run.train_set.as_float(slice(2), (0, 1))
    z = torch.randn(2, vae.latent_dim)
    for label in (0, 3):
        y = torch.tensor([label, label])
        given = vae.given(label)
        assert torch.equal(given.decode(z), vae.decode(z, y))
        assert all(map(torch.equal, given.encode(x), vae.encode(x, y)))
    assert not torch.equal(vae.given(0).decode(z), vae.given(3).decode(z))
    seen, forward = [], vae.forward
    vae.forward = lambda x, generator, labels: (
        seen.append((x, labels)) or forward(x, generator, labels)
    )
    model.step(model.state, next(model.batches))
    ((x, labels),) = seen
    every = run.train_set.as_float(range=(0, 1))
    index = [int((every - image).flatten(1).abs().sum(1).argmin()) for image in x]
    assert torch.equal(run.train_set.labels[index], labels)


def test_samples_under_a_label_show_it_if_the_decoder_is_perfect():
    run = small_run("cvae_sprites", samples=100)
    vae = run.model.state.modules["vae"]
    order = torch.cat([torch.nonzero(run.test_set.labels == y)[:1, 0] for y in range(4)])
    perfect = run.test_set.as_float(order, (0, 1)).clamp(1e-4, 1 - 1e-4).logit()
    vae.decode = lambda z, labels: perfect[labels]
    rows = {r["measure"]: r for r in run.evaluate()}
    assert rows["samples that show the label asked for"]["value"] == 1.0


def test_images_held_out_are_those_that_fix_the_parzen_window(monkeypatch):
    run = small_run("gan_mnist_parzen")
    assert len(run.train_set) == 1497 - 1497 // 6
    seen = []
    score = metrics.parzen_log_likelihood
    monkeypatch.setattr(
        metrics, "parzen_log_likelihood", lambda *a, **k: seen.append(k) or score(*a, **k)
    )
    run.evaluate()
    whole = data.load("digits").as_float(range=(0, 1)).flatten(1)
    assert torch.equal(seen[0]["validation"], whole[len(run.train_set) :])


def test_centroids_are_the_means_of_what_lies_nearest_to_them():
    images = data.load("digits").subset(300)
    x = images.as_float(range=(0, 1)).flatten(1).double()
    by_hand = evaluation.some(images, 12).as_float(range=(0, 1)).flatten(1).double()
    for rounds in (1, 2, 3):  # Lloyd's algorithm, spelt out
        owner = torch.cdist(x, by_hand).argmin(1)
        by_hand = torch.stack([x[owner == i].mean(0) for i in range(12)])
        found = evaluation.k_means(images, 12, rounds)
        assert torch.allclose(found.double(), by_hand, atol=1e-5)
    assert torch.equal(found, evaluation.k_means(images, 12, 3))


def test_real_images_score_at_the_floor():
    run = small_run("dcgan_mnist", samples=200)
    pool = run.train_set.as_float(torch.arange(400, 800), (0, 1))
    run.model.draw = lambda n, source: pool[torch.randperm(len(pool), generator=source)[:n]]
    rows = {r["measure"]: r["value"] for r in run.evaluate()}
    floor = rows["Fréchet distance, real against real"]
    # At n = 200 either varies by a factor of two; an untrained generator is at 130.
    assert floor / 4 < rows["Fréchet distance"] < 4 * floor < 20
    assert rows["coverage"] > 0.8


def test_principal_components_agree_with_scikit_learn():
    images = data.load("digits", "test")
    flat = images.as_float(range=(0, 1)).flatten(1).double()
    mean, directions = evaluation.principal_components(images, 5)
    ours = mean + (flat - mean) @ directions @ directions.T
    model = PCA(5, svd_solver="full").fit(flat)
    theirs = torch.from_numpy(model.inverse_transform(model.transform(flat)))
    assert torch.allclose(ours, theirs, atol=1e-9)


def test_principal_components_of_mnist_reproduce_the_published_error(mirror, tmp_path):
    train_set, test = (
        data.load("mnist", s, root=tmp_path, mirror=mirror) for s in ("train", "test")
    )
    mean, directions = evaluation.principal_components(train_set, 30)
    flat = test.as_float(range=(0, 1)).flatten(1).double() - mean
    error = (flat - flat @ directions @ directions.T).square().sum(1).mean().item()
    assert error == pytest.approx(13.87, abs=0.01)  # Hinton and Salakhutdinov 2006, Fig. 2


def test_images_of_twice_the_size_are_seen_at_the_size_of_the_network():
    eyes = evaluation.Eyes("sprites")
    small = torch.rand(3, 3, 32, 32)
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(eyes(large).features, eyes(small).features, atol=1e-4)
    assert evaluation.Eyes.of("kmnist") is None


def test_the_mean_of_a_set_does_not_depend_on_its_type():
    bytes_ = torch.tensor([0, 255, 51, 102], dtype=torch.uint8).reshape(2, 1, 1, 2)
    sets = [data.ImageSet(bytes_), data.ImageSet(bytes_ / 255)]
    means = [families.pixel_mean(s) for s in sets]
    torch.testing.assert_close(means[0], torch.tensor([[[0.1, 0.7]]]))
    torch.testing.assert_close(*means)


def test_shipped_weights_are_in_the_generator_too():
    model = pretrained.pretrained("dcgan_fashion")
    z = torch.randn(2, 100, generator=torch.Generator().manual_seed(0))
    pair = model.state.modules["generator"], model.state.ema["generator"].module
    with torch.no_grad():
        assert torch.equal(*(module.eval()(z) for module in pair))
