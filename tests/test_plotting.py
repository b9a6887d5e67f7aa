"""Figures: what is drawn is what was given, in colours that everybody can tell apart."""

import io
import itertools
import sys

import matplotlib as mpl
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from course_lib import plotting
from course_lib.plotting import images as grids
from course_lib.plotting import motion, style

# Full dichromacy as matrices on linear RGB. Source: G. Machado, M. Oliveira and L. Fernandes, "A
# Physiologically-based Model for Simulation of Color Vision Deficiency", 2009 (severity 1.0).
VISION = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}


def linear(color) -> np.ndarray:
    c = np.array(mpl.colors.to_rgb(color))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(a, b) -> float:
    """WCAG 2.1, relative luminance and contrast ratio."""
    high, low = sorted((float(linear(c) @ (0.2126, 0.7152, 0.0722)) for c in (a, b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def lab(rgb) -> np.ndarray:
    """CIE 1976 L*a*b* of linear sRGB, white D65."""
    matrix = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
              [0.0193339, 0.1191920, 0.9503041]]  # fmt: skip
    x = np.array(matrix) @ np.clip(rgb, 0, 1) / (0.95047, 1.0, 1.08883)
    f = np.where(x > 216 / 24389, np.cbrt(x), (24389 / 27 * x + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def noise(*shape) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def bell(x: torch.Tensor) -> torch.Tensor:
    return torch.distributions.Normal(0.0, 1.0).log_prob(x)


def plane(x: torch.Tensor) -> torch.Tensor:
    return bell(x).sum(1)


HISTORY = {
    "generator_loss": list(np.linspace(1, 2, 100)),
    "discriminator_loss": list(np.linspace(2, 1, 100)),
    "kl": [1.0] * 100,
}
DIGITS = torch.arange(50) % 10
ROWS = [("one", noise(4, 3, 8, 8)), ("$z$", noise(3, 1, 8, 8))]
MAKE = {
    "figure": lambda: plotting.figure()[0],
    "image_grid": lambda: plotting.image_grid(noise(9, 1, 8, 8), 3, list("abcdefghi"), "nine"),
    "image_rows": lambda: plotting.image_rows(ROWS),
    "before_after": lambda: plotting.before_after(noise(8, 1, 8, 8), noise(8, 1, 8, 8)),
    "latent_traversal": lambda: plotting.latent_traversal(noise(2, 5, 1, 8, 8), ["hue", "size"]),
    "interpolation": lambda: plotting.interpolation(noise(2, 5, 1, 8, 8)),
    "training_curves": lambda: plotting.training_curves(HISTORY, references={"log 4": 1.386}),
    "density_map": lambda: plotting.density_map(plane, samples=noise(9, 2), resolution=40),
    "histogram": lambda: plotting.histogram(noise(99), lambda x: bell(x).exp()),
    "latent_scatter": lambda: plotting.latent_scatter(noise(50, 2), DIGITS, title="codes"),
}  # fmt: skip


@pytest.mark.parametrize("name", MAKE)
def test_a_figure_is_returned_and_nothing_stays_behind(name):
    before = dict(mpl.rcParams)
    fig = MAKE[name]()
    png = plotting.png_bytes(fig)
    assert isinstance(fig, Figure)
    assert dict(mpl.rcParams) == before
    assert (
        "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    )
    image = Image.open(io.BytesIO(png))
    assert np.allclose(image.size, fig.bbox.size, atol=1)
    assert image.width <= 760 and len(png) < 60_000
    assert name == "figure" or fig.alt


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("theme", ["default", "dark_background"])
def test_text_reads_on_the_card_whatever_the_readers_style(name, theme):
    import matplotlib.style

    with matplotlib.style.context(theme):
        fig = MAKE[name]()
        background = plotting.pixels(fig)[0, 0] / 255
    assert np.allclose(background, mpl.colors.to_rgb(style.PAPER), atol=1 / 255)
    texts = [t for t in fig.findobj(mpl.text.Text) if t.get_text() and t.get_visible()]
    assert all(contrast(t.get_color(), style.PAPER) >= 4.5 for t in texts)
    assert all(t.get_fontsize() >= 8.5 or "$" in t.get_text() for t in texts)


@pytest.mark.parametrize("vision", VISION)
def test_the_palette_is_told_apart(vision):
    seen = {n: lab(VISION[vision] @ linear(c)) for n, c in plotting.PALETTE.items()}
    distance = {
        (a, b): np.linalg.norm(seen[a] - seen[b]) for a, b in itertools.combinations(seen, 2)
    }
    # A difference of 2.3 is just noticeable (Mahy, Van Eycken and Oosterlinck, 1994).
    assert min(distance.values()) > 15, min(distance, key=distance.get)
    assert distance["blue", "vermillion"] > 60


def test_lines_stand_out_and_differ_in_more_than_colour():
    assert (plotting.DATA_COLOR, plotting.MODEL_COLOR) == tuple(style.LINES[:2])
    assert contrast(plotting.DATA_COLOR, style.PAPER) > 3
    assert contrast(plotting.MODEL_COLOR, style.PAPER) > 3
    assert len(set(style.DASHES)) == len(style.LINES) and len(set(style.MARKERS)) == 10
    first, second = plotting.training_curves(HISTORY, smooth=1).axes[0].lines
    assert first.get_linestyle() != second.get_linestyle()


def find_tiles(fig: Figure, tile: np.ndarray) -> list[tuple[int, int]]:
    """Where a picture [h, w, 3] stands in the drawn figure, exactly."""
    drawn = plotting.pixels(fig)
    windows = np.lib.stride_tricks.sliding_window_view(drawn, tile.shape)[:, :, 0]
    corners = (windows[..., 0, 0, :] == tile[0, 0]).all(-1)
    corners &= (windows[..., -1, -1, :] == tile[-1, -1]).all(-1)
    return [(y, x) for y, x in np.argwhere(corners) if (windows[y, x] == tile).all()]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["uint8", "[0, 1]", "[-1, 1]"])
def test_every_pixel_of_a_grid_is_the_pixel_of_its_image(channels, kind):
    values = np.random.default_rng(1).integers(0, 256, (6, channels, 14, 14), dtype=np.uint8)
    x = torch.tensor(values)
    x = {"uint8": x, "[0, 1]": x / 255, "[-1, 1]": x / 127.5 - 1}[kind]
    fig = plotting.image_grid(x, columns=3, titles=list("abcdef"), title="six")
    times = grids.LARGEST_TILE // 14
    where = []
    for image in values:
        tile = np.broadcast_to(image.transpose(1, 2, 0), (14, 14, 3))
        places = find_tiles(fig, tile.repeat(times, 0).repeat(times, 1))
        assert len(places) == 1
        where += places
    y, x = np.array(where).T
    step = 14 * times + grids.GAP
    assert (y[:3] == y[0]).all() and (y[3:] == y[3]).all() and y[3] > y[0]
    assert list(x) == [x[0], x[0] + step, x[0] + 2 * step] * 2
    # What is stored is what is drawn.
    stored = Image.open(io.BytesIO(plotting.png_bytes(fig))).convert("RGB")
    assert (np.asarray(stored) == plotting.pixels(fig)).all()


def test_a_reference_is_named_on_the_side_where_no_curve_ends():
    for end, place in ((2.0, "top"), (0.5, "baseline")):
        fig = plotting.training_curves({"loss": [5.0, end, end]}, references={"log 2": 1.0})
        (label,) = fig.axes[0].texts
        assert label.get_va() == place
        low, high = fig.axes[0].get_ylim()
        assert low < 0.95 < 1.0 < high


def test_an_animation_is_a_gif_and_a_range_may_be_an_array(tmp_path):
    with pytest.raises(ValueError, match=r"let x\.mp4 end in \.gif"):
        plotting.animation(torch.zeros(2, 1, 8, 8), tmp_path / "x.mp4")
    assert not list(tmp_path.iterdir())
    fig = plotting.histogram([0.0, 0.5, 1.0], range=np.array([-1.0, 2.0]))
    edges = [patch.get_path().vertices[:, 0] for patch in fig.axes[0].patches]
    assert edges and min(map(min, edges)) == -1 and max(map(max, edges)) == 2


def test_drawing_a_figure_leaves_it_the_canvas_that_it_has():
    fig = Figure()
    canvas = fig.canvas
    plotting.pixels(fig)
    assert fig.canvas is canvas


def test_black_is_zero_and_white_is_one():
    fig = plotting.image_grid(torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)]), columns=2)
    (black,) = find_tiles(fig, np.zeros((128, 128, 3), np.uint8))
    (white,) = find_tiles(fig, np.full((128, 128, 3), 255, np.uint8))
    assert black[1] < white[1]


def test_before_stands_left_of_after():
    fig = plotting.before_after(torch.zeros(4, 1, 8, 8), torch.ones(4, 1, 8, 8), columns=2)
    drawn = plotting.pixels(fig)[-40]
    assert np.argwhere((drawn == 0).all(-1)).max() < np.argwhere((drawn == 255).all(-1)).min()


@pytest.mark.parametrize("size", [28, 64, 300])
@pytest.mark.parametrize("columns", [1, 10, 20])
def test_a_grid_never_scrolls_and_uses_its_room(size, columns):
    fig = plotting.image_rows([("a label in two lines", torch.zeros(columns, 1, size, size))])
    assert fig.bbox.width <= grids.WIDEST
    assert columns < 8 or fig.bbox.width > 0.7 * grids.WIDEST


def test_sixty_four_images_are_stored_small():
    strokes = torch.nn.functional.avg_pool2d(noise(64, 1, 34, 34), 7, 1)  # smooth as digits are
    fig = plotting.image_grid(((strokes - 0.5).clamp(0) * 5).clamp(0, 1))
    assert len(plotting.png_bytes(fig)) < 60_000


@given(st.floats(-100, 100), st.floats(-10, 10), st.integers(1, 80), st.integers(1, 60))
def test_smoothing_keeps_a_line_and_so_a_constant(start, slope, n, window):
    line = start + slope * np.arange(n)
    assert np.allclose(plotting.moving_average(line, window), line, atol=1e-9)


def test_smoothing_is_a_mean_and_leaves_gaps():
    v = np.random.default_rng(0).normal(size=50)
    smooth = plotting.moving_average(v, 7)
    assert smooth[20] == pytest.approx(v[17:24].mean())
    assert np.std(smooth[[0, 1, 2, -3, -2, -1]]) < np.std(v)
    v[20] = np.nan
    smooth = plotting.moving_average(v, 7)
    assert np.isnan(smooth[20]) and np.isfinite(np.delete(smooth, 20)).all()
    assert smooth[21] == pytest.approx(np.nanmean(v[18:25]))


def test_panels_of_training_curves():
    assert len(plotting.training_curves(HISTORY).axes) == 2
    fig = plotting.training_curves(HISTORY, [["kl"], ["generator_loss"]], ylabel="nats")
    assert [ax.get_ylabel() for ax in fig.axes] == ["nats", "nats"]
    (ax,) = plotting.training_curves(HISTORY, ["kl", "generator_loss"]).axes
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["kl", "generator loss"]
    refs = [{"log 4": 1.386}, None]
    left, right = plotting.training_curves(HISTORY, references=refs, smooth=1).axes
    assert [len(left.lines), len(right.lines)] == [3, 1]
    assert list(left.lines[2].get_ydata()) == [1.386, 1.386]


def test_a_density_map_shows_the_density_the_right_way_up():
    fig = plotting.density_map(plane, (-1, 3, 0, 2), resolution=50)
    shown = fig.axes[0].images[0].get_array()
    y, x = 40, 10
    point = torch.tensor([[-1 + 4 * (x + 0.5) / 50, 2 * (y + 0.5) / 50]])
    assert shown[y, x] == pytest.approx(plane(point).exp().item(), rel=1e-5)
    assert fig.axes[1].get_ylabel() == "density"


def test_a_histogram_has_area_one_also_under_a_narrow_range():
    x = np.random.default_rng(0).standard_cauchy(4000)
    patch = plotting.histogram(x, bins=30).axes[0].patches[0].get_data()
    assert np.sum(patch.values * np.diff(patch.edges)) == pytest.approx(1)
    ax = plotting.histogram(x, range=(-2, 2)).axes[0]
    patch, inside = ax.patches[0].get_data(), np.mean(np.abs(x) <= 2)
    assert np.sum(patch.values * np.diff(patch.edges)) == pytest.approx(inside)
    assert f"{100 * (1 - inside):.2g} %" in ax.get_xlabel()


def test_each_class_is_named_at_its_mean():
    mu = noise(50, 2).double()
    ax = plotting.latent_scatter(mu, DIGITS).axes[0]
    for text in ax.texts:
        mean = mu[DIGITS == int(text.get_text())].mean(0)
        assert np.allclose(text.get_position(), mean)
    assert len(ax.texts) == 10


def test_a_panel_can_be_drawn_into():
    fig, (left, right) = plotting.figure(1, 2)
    assert plotting.density_map(plane, resolution=9, ax=left, title="left") is fig
    assert plotting.histogram(noise(9), ax=right, title="right") is fig
    assert "left" in fig.alt and "right" in fig.alt
    assert plotting.figure(2, 3)[1].shape == (2, 3)


def test_a_gif_has_its_frames_and_its_pace(tmp_path):
    path = tmp_path / "new" / "a.gif"
    frames = [torch.full((4, 1, 8, 8), k / 5) for k in range(6)]
    shown = plotting.animation(frames, path, fps=10, alt="grey to white", hold=0.5)
    gif = Image.open(path)
    pace = []
    for k in range(gif.n_frames):
        gif.seek(k)
        pace.append(gif.info["duration"])
        grey = np.asarray(gif.convert("RGB"))[gif.height // 2, 20]
        assert np.abs(grey.astype(int) - round(255 * k / 5)).max() <= 8
    assert pace == [100] * 5 + [600]
    assert shown.data == path.read_bytes() and list(path.parent.iterdir()) == [path]
    assert shown._repr_mimebundle_()[1]["image/gif"]["alt"] == "grey to white"
    assert "grey to white" in repr(shown)


def test_an_animation_needs_no_argument_that_ipython_7_lacks(monkeypatch):
    from IPython.display import Image as Shown

    newer = Shown.__init__

    def older(self, data=None, format=None, metadata=None):
        newer(self, data=data, format=format, metadata=metadata)

    monkeypatch.setattr(Shown, "__init__", older)
    shown = plotting.animation([noise(1, 8, 8), noise(1, 8, 8)], alt="two")
    assert shown._repr_mimebundle_()[1] == {"image/gif": {"alt": "two"}}


def test_animations_of_figures_single_images_and_two_states():
    figures = [plotting.histogram(noise(50) + k, range=(0, 3)) for k in range(3)]
    assert Image.open(io.BytesIO(plotting.animation(figures).data)).n_frames == 3
    images = noise(4, 3, 8, 8)
    assert (
        Image.open(io.BytesIO(plotting.animation(images, titles=list("abcd")).data)).n_frames == 4
    )
    two = plotting.before_after_animation(noise(4, 1, 8, 8), 1 - noise(4, 1, 8, 8))
    assert Image.open(io.BytesIO(two.data)).n_frames == 2


def test_one_range_holds_for_all_frames():
    frames = [torch.full((1, 8, 8), -1.0), torch.full((1, 8, 8), 1.0)]
    middle = [p[p.shape[0] // 2, p.shape[1] // 2, 0] for p in motion._frames(frames, None, 8, None)]
    assert middle == [0, 255]


def test_explore_outside_a_kernel_calls_the_function_once():
    calls = []

    def draw(**values):
        calls.append(values)
        return plotting.figure()[0]

    assert plotting.explore(draw, k=(0, 5, 1, 2), sigma=(0.0, 1.0, 0.25, 0.5)) is None
    assert calls == [{"k": 2, "sigma": 0.5}]
    with pytest.raises(TypeError, match="must return a Figure"):
        plotting.explore(lambda k: k, k=(0, 5, 1, 2))


def test_slider_kinds():
    import ipywidgets

    whole, real = motion._slider("a_b", (0, 5, 1, 2)), motion._slider("s", (0, 1, 0.25, 0.5))
    assert isinstance(whole, ipywidgets.IntSlider) and whole.description == "a b"
    assert isinstance(real, ipywidgets.FloatSlider) and real.readout_format == ".2f"
    menu = ipywidgets.Dropdown(options=["a", "b"])
    assert motion._slider("m", menu) is menu


@pytest.fixture
def shell():
    from IPython.core.interactiveshell import InteractiveShell

    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


def test_a_cell_shows_a_figure_once_and_with_its_words(shell):
    fig = plotting.describe(plotting.figure()[0], "an empty frame")
    inline = shell.display_formatter.formatters["image/png"]
    inline.for_type(Figure, lambda figure: b"what the inline backend would do")
    data, metadata = shell.display_formatter.format(fig)
    assert set(data) == {"image/png", "text/plain"}
    assert data["image/png"] == plotting.png_bytes(fig)
    assert data["text/plain"] == "<Figure: an empty frame>"
    assert metadata["image/png"] == {"alt": "an empty frame"}


def test_explore_in_a_kernel_shows_sliders_and_stores_a_sentence(shell, monkeypatch):
    import IPython.display
    import ipywidgets

    shell.kernel, shown, calls, boxes = object(), [], [], []
    build = ipywidgets.VBox
    monkeypatch.setattr(ipywidgets, "VBox", lambda kids: boxes.append(build(kids)) or boxes[0])
    monkeypatch.setattr(IPython.display, "display", lambda data, raw: shown.append(data))

    def draw(power, offset):
        calls.append(power)
        if power == 3:
            raise ValueError("three is too much")
        return plotting.figure(width=power + 1, height=1)[0]

    slider = ipywidgets.IntSlider(1)
    assert plotting.explore(draw, power=slider, offset=(0, 3, 1, 1)) is None
    (data,) = shown
    assert data["text/plain"] == "Run this cell to move the sliders: power, offset."
    slider.value = 2
    assert calls == [1, 2]
    slider.value = 3
    *_, message, picture = boxes[0].children
    assert Image.open(io.BytesIO(picture.value)).size == (3 * style.DPI, style.DPI)
    assert message.value == "ValueError: three is too much"
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == boxes[0].model_id


def grey(*shape: int) -> torch.Tensor:
    return noise(*shape, 1, 8, 8)


SIZES = [("a", noise(1, 1, 8, 8)), ("b", noise(1, 1, 9, 9))]
UNEVEN = {"a_loss": [1.0], "b_loss": [1.0, 2.0]}
BAD = {
    "shape": (lambda: plotting.image_grid(noise(8, 8)), r"\[n, c, h, w\]"),
    "channels": (lambda: plotting.image_grid(noise(2, 8, 8, 3)), "c = 1 or 3"),
    "empty": (lambda: plotting.image_grid(grey(0)), "not empty"),
    "above": (lambda: plotting.image_grid(grey(2) * 2), "clamp or rescale"),
    "below": (lambda: plotting.image_grid(grey(2) * 4 - 2), "clamp or rescale"),
    "bytes as floats": (lambda: plotting.image_grid(grey(2) * 255), "true range"),
    "integers": (lambda: plotting.image_grid(torch.ones(2, 1, 8, 8).long()), "int64"),
    "nan": (lambda: plotting.image_grid(torch.full((1, 1, 8, 8), np.nan)), "NaN"),
    "range": (lambda: plotting.image_grid(grey(1), range=(1, 0)), "low < high"),
    "captions": (lambda: plotting.image_grid(grey(2), titles=["a"]), "needs 2 entries"),
    "columns": (lambda: plotting.image_grid(grey(2), 0), "at least one column"),
    "narrow": (lambda: plotting.image_grid(grey(400), 400), "ask for fewer"),
    "no rows": (lambda: plotting.image_rows([]), "at least one pair"),
    "row sizes": (lambda: plotting.image_rows(SIZES), "resize"),
    "two shapes": (lambda: plotting.before_after(grey(2), grey(3)), "one shape"),
    "rows unfilled": (lambda: plotting.before_after(grey(5), grey(5)), "divisor"),
    "traversal": (lambda: plotting.latent_traversal(grey(5)), "rows, n, c, h, w"),
    "one end": (lambda: plotting.interpolation(noise(2, 1, 1, 8, 8)), "two ends"),
    "key": (lambda: plotting.training_curves(HISTORY, ["los"]), "no 'los'"),
    "no curve": (lambda: plotting.training_curves({}), "no curve"),
    "untrained": (lambda: plotting.training_curves({"loss": []}), "empty"),
    "lengths": (lambda: plotting.training_curves(UNEVEN), "of their own"),
    "window": (lambda: plotting.moving_average([1.0], 0), "window above 0"),
    "extent": (lambda: plotting.density_map(plane, (1, 0, 0, 1)), "x0 < x1"),
    "log_prob shape": (lambda: plotting.density_map(bell), r"to \[m\]"),
    "log_prob nan": (lambda: plotting.density_map(lambda x: plane(x) * np.nan), "NaN"),
    "points": (lambda: plotting.density_map(plane, samples=noise(3, 3)), r"\[n, 2\]"),
    "samples": (lambda: plotting.histogram(noise(3, 3)), r"samples \[n\]"),
    "pdf": (lambda: plotting.histogram(noise(3), lambda x: x[:2]), "pdf must"),
    "labels": (lambda: plotting.latent_scatter(noise(3, 2), [0.5, 1.0, 2.0]), "integers"),
    "names": (lambda: plotting.latent_scatter(noise(3, 2), [0, 1, 2], ["a"]), "from 0 to 2"),
    "no frames": (lambda: plotting.animation([]), "at least one frame"),
    "pace": (lambda: plotting.animation(grey(2), fps=0), "fps"),
    "frame shapes": (lambda: plotting.animation([noise(1, 8, 8), noise(1, 9, 9)]), "one shape"),
    "frame sizes": (lambda: plotting.animation([m() for m in MAKE.values()]), "differ in size"),
    "no slider": (lambda: plotting.explore(print), "at least one slider"),
    "slider": (lambda: plotting.explore(print, k=3), "tuple"),
    "slider value": (lambda: plotting.explore(print, k=(0, 1, 0.1, 2)), "min <= value"),
    "rows of axes": (lambda: plotting.figure(0), "at least one row"),
    "size": (lambda: plotting.figure(width=-1), "above 0"),
    "no words": (lambda: plotting.describe(plotting.figure()[0], " "), "empty"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_answered_in_one_sentence(case):
    call, words = BAD[case]
    with pytest.raises(ValueError, match=words) as caught:
        call()
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text and ". " not in text
