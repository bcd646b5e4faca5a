"""Post-hoc averages: published exponents, the update by hand, synthesis against the average that was not kept."""

import numpy as np
import pytest
import torch

from rlloop.models.ema import PostHocEma, Snapshot, beta, gamma_of, inner_products, synthesis, synthesise

STEPS, EVERY = 600, 50


def trajectory(steps=STEPS, size=50):
    """Weights that drift and jitter: [steps, size]."""
    rng = np.random.default_rng(0)
    return np.cumsum(rng.standard_normal((steps, size)), axis=0) * 0.05 + np.linspace(0, 3, steps)[:, None]


def averaged(weights, sigma):
    """The track of one width after every update, in float64."""
    tracks = [weights[0].astype(np.float64)]
    for step in range(2, len(weights) + 1):
        kept = beta(gamma_of(sigma), step, 1)
        tracks.append(kept * tracks[-1] + (1 - kept) * weights[step - 1])
    return np.stack(tracks)


def snapshots(weights, sigmas=(0.05, 0.1), every=EVERY):
    ema, found = PostHocEma(sigmas), []
    for step, value in enumerate(weights, 1):
        ema.update({"w": value}, step)
        if step % every == 0:
            found += [Snapshot(step, sigma, lambda arrays=arrays: arrays) for sigma, arrays in ema.snapshots()]
    return found


def test_exponents_are_the_published_ones_and_give_the_width_back():
    assert gamma_of(0.05) == pytest.approx(16.972199, abs=1e-6)
    assert gamma_of(0.1) == pytest.approx(6.937204, abs=1e-6)
    for sigma in (0.01, 0.05, 0.2, 0.28):
        moments = [(gamma_of(sigma) + 1) / (gamma_of(sigma) + 1 + n) for n in (1, 2)]  # of s / t under the profile
        assert np.sqrt(moments[1] - moments[0] ** 2) == pytest.approx(sigma)


def test_the_update_by_hand():
    """gamma 1 at step 3 after 1 update: ((3/4) (4/5))^(2/2) = 0.6; after 2: ((3/4) (5/6))^2 = 0.390625."""
    assert beta(1.0, 3, 1) == pytest.approx(0.6)
    assert beta(1.0, 3, 2) == pytest.approx(0.390625)
    sigma = np.sqrt(2 / 36)  # gamma 1
    ema = PostHocEma([sigma])
    for step, value in ((1, 7.0), (2, 3.0), (3, 1.0)):
        ema.update({"w": np.array([value])}, step)
    # copied: 7; then kept 2/4: 5; then kept 0.6: 3.4
    assert ema.snapshots()[0][1]["w"] == pytest.approx([3.4])


def test_products_of_profiles_are_their_integrals():
    t, gamma = np.array([3.0, 10.0]), np.array([2.0, 17.0])
    s = np.linspace(0, 10, 200_001)
    profiles = (gamma[:, None] + 1) * s ** gamma[:, None] / t[:, None] ** (gamma[:, None] + 1) * (s <= t[:, None])
    expected = [[np.trapezoid(p * q, s) for q in profiles] for p in profiles]
    np.testing.assert_allclose(inner_products(t, gamma, t, gamma), expected, rtol=1e-3)


def test_weights_of_one_snapshot_by_hand():
    """<p, p'> / <p, p> at one step with gammas 1 and 3: (2 4 / 5) / (2 2 / 3) = 1.2."""
    widths = [np.sqrt((g + 1) / ((g + 2) ** 2 * (g + 3))) for g in (1, 3)]
    found = synthesis([(8, widths[0])], widths[1], 8)
    assert found.weights == pytest.approx([1.2])
    assert found.error == pytest.approx(np.sqrt(1 - (8 / 5) ** 2 / ((4 / 3) * (16 / 7))))  # 1 - cosine^2


@pytest.mark.parametrize(("sigma", "bound"), [(0.05, 1e-6), (0.07, 2e-3), (0.1, 1e-6), (0.15, 4e-3)])
def test_synthesis_is_the_average_that_was_not_kept(sigma, bound):
    """Relative to how far training moves; the nearest stored average is 0.1 away where it is not it."""
    weights = trajectory()
    wanted = averaged(weights, sigma)[-1]
    moved = np.linalg.norm(weights[-1] - weights[0])
    found = synthesise(snapshots(weights), sigma, STEPS)["w"]
    assert np.linalg.norm(found - wanted) / moved < bound
    assert found.dtype == np.float32


def test_synthesis_at_an_earlier_step_ignores_what_came_after():
    weights = trajectory()
    later = np.concatenate([weights[:450], np.full_like(weights[450:], 1e3)])
    wanted = averaged(weights, 0.08)[449]
    found = synthesise(snapshots(later), 0.08, 450)["w"]
    assert np.linalg.norm(found - wanted) / np.linalg.norm(weights[-1] - weights[0]) < 0.01


def test_constant_weights_stay():
    np.testing.assert_allclose(synthesise(snapshots(np.full((STEPS, 3), 2.0)), 0.07, STEPS)["w"], 2.0, rtol=1e-3)


def test_snapshots_are_read_one_at_a_time():
    weights, alive, most = trajectory(), [], []

    class Arrays(dict):
        def __init__(self, arrays):
            super().__init__(arrays)
            alive.append(1)
            most.append(len(alive))

        def __del__(self):
            alive.pop()

    kept = snapshots(weights)
    synthesise([Snapshot(s.step, s.sigma, lambda s=s: Arrays(s.load())) for s in kept], 0.07, STEPS)
    assert len(most) == len(kept) and max(most) <= 2  # the one before goes when the next is bound


def test_a_track_goes_on_from_its_state_to_the_bit():
    weights = trajectory(20)
    whole, first, second = (PostHocEma([0.05, 0.1]) for _ in range(3))
    for step, value in enumerate(weights, 1):
        whole.update({"w": value}, step)
        if step == 11:
            second.load(first.state())
        (first if step <= 10 else second).update({"w": value}, step)
    resumed, expected = second.state(), whole.state()
    assert resumed.keys() == expected.keys() == {"step", "0.05:w", "0.1:w"} and second.step == 20
    assert all(np.array_equal(resumed[key], expected[key]) for key in expected)


def test_tensors_counters_and_half_precision():
    ema, live = PostHocEma([0.1]), {"w": torch.zeros(2, dtype=torch.bfloat16), "n": torch.tensor(1)}
    ema.update(live, 1)
    live["w"] += 1.0
    live["n"] += 4
    ema.update(live, 2)
    arrays = ema.snapshots()[0][1]
    np.testing.assert_allclose(arrays["w"], 1 - 0.5 ** ((1 + gamma_of(0.1)) / 2), rtol=1e-6)  # ((2/3) (3/4))^((1+g)/2)
    assert arrays["n"] == 5 and arrays["w"].dtype == np.float32
    whole = synthesise([Snapshot(2, 0.1, lambda: arrays)], 0.1, 2)
    assert whole["n"] == 5 and isinstance(whole["n"], np.ndarray)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: PostHocEma([]), "one or more, all different"),
        (lambda: PostHocEma([0.1, 0.1]), "one or more, all different"),
        (lambda: PostHocEma([0.3]), r"sigma is 0.3, expected a number in \(0, 0.2887\)"),
        (lambda: gamma_of(float("nan")), "sigma is nan"),
        (lambda: synthesis([(5, 0.1), (5, 0.1)], 0.1, 5), "none twice"),
        (lambda: synthesis([], 0.1, 5), "0 snapshots"),
        (
            lambda: synthesise(snapshots(trajectory(100)), 0.03, 100),
            "0.03 at step 100 comes out .* take a stored sigma",
        ),
        (
            lambda: PostHocEma([0.1]).load({"step": np.array([3]), "0.05:w": np.zeros(1)}),
            r"\[0.05\], expected .*\[0.1\]",
        ),
        (lambda: PostHocEma([0.1]).load({"step": np.array([3])}), r"sigmas \[\]"),
        (lambda: updated().update({"w": np.zeros(1)}, 4), "step 4, expected one after 4"),
        (lambda: updated().update({"v": np.zeros(1)}, 5), "'v' is in the weights or in the average"),
    ],
)
def test_what_is_refused(act, message):
    with pytest.raises(ValueError, match=message) as caught:
        act()
    assert "\n" not in str(caught.value)


def updated():
    ema = PostHocEma([0.1])
    ema.update({"w": np.zeros(1)}, 4)
    return ema
