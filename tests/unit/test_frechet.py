"""The Frechet distance against the golden case, against closed forms, and as it is stored."""

import importlib.util

import numpy as np
import pytest
from scipy.linalg import sqrtm

from rlloop.evaluation.distances import mad
from rlloop.evaluation.frechet import FrechetStatistics, frechet_distance
from tests.golden.cases import arrays, case, drawn_inputs


def draw(n: int, d: int, seed: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.3 * seed, scale, size=(n, d))


def test_golden_case():
    """100 embeddings of 512 dimensions: the covariance has not its full rank."""
    inputs, expected = drawn_inputs("frechet"), float(arrays("frechet")["fd"])
    found = frechet_distance(inputs["gen"].numpy() + np.float32(case("frechet")["gen_offset"]), inputs["ref"].numpy())
    assert found == pytest.approx(expected, rel=1e-5)


def test_one_dimension_by_hand():
    # Means 1 and 4, standard deviations (ddof 1) 1 and 3: 3^2 + (1 - 3)^2.
    assert frechet_distance(np.array([[0.0], [1.0], [2.0]]), np.array([[1.0], [4.0], [7.0]])) == pytest.approx(13.0)


def test_covariances_that_commute():
    """Diagonal covariances a^2 and b^2 lie sum((a - b)^2) apart."""
    a, b = np.diag([1.0, 4.0, 0.0]), np.diag([9.0, 1.0, 0.25])
    mean = np.array([0.0, 1.0, 2.0])
    found = FrechetStatistics(mean, a, 9).distance(FrechetStatistics(mean + 1, b, 5))
    assert found == pytest.approx(3 + (1 - 3) ** 2 + (2 - 1) ** 2 + 0.5**2)


@pytest.mark.filterwarnings("ignore:Matrix is singular")  # the reason why the code takes another way
@pytest.mark.parametrize("n", [2, 10, 29, 31, 200])
def test_any_rank_against_the_matrix_root(n):
    x, y = FrechetStatistics.of(draw(n, 30, 1)), FrechetStatistics.of(draw(300, 30, 2, scale=0.7))
    root = sqrtm(x.cov @ y.cov)
    expected = ((x.mean - y.mean) ** 2).sum() + np.trace(x.cov + y.cov) - 2 * np.trace(root).real
    assert x.distance(y) == pytest.approx(expected, rel=1e-6)
    assert y.distance(x) == pytest.approx(x.distance(y), rel=1e-12)


@pytest.mark.parametrize("n", [2, 5, 100])
def test_a_set_has_no_distance_to_itself_and_its_order_is_nothing(n):
    x = draw(n, 40, 3)
    assert abs(frechet_distance(x, x[::-1])) < 1e-10


def test_turning_both_sets_changes_nothing():
    x, y = draw(8, 12, 1), draw(50, 12, 2)
    turn, _ = np.linalg.qr(draw(12, 12, 3))
    assert frechet_distance(x @ turn, y @ turn) == pytest.approx(frechet_distance(x, y), rel=1e-9)


def test_statistics_come_back_as_they_were_saved(tmp_path):
    path = tmp_path / "reference.safetensors"
    saved = FrechetStatistics.of(draw(7, 5, 1), {"clips": "seven", "crop_seed": "3"})
    saved.save(path)
    loaded = FrechetStatistics.load(path)
    assert np.array_equal(loaded.mean, saved.mean) and np.array_equal(loaded.cov, saved.cov)
    assert (loaded.count, loaded.source, loaded.checksum) == (7, {"clips": "seven", "crop_seed": "3"}, saved.checksum)
    assert list(tmp_path.iterdir()) == [path]


def test_every_number_counts_in_the_checksum():
    x = FrechetStatistics.of(draw(7, 5, 1))
    nearly = np.nextafter(x.cov, np.inf)
    others = [
        FrechetStatistics(x.mean + 1e-9, x.cov, 7),
        FrechetStatistics(x.mean, nearly, 7),
        FrechetStatistics(x.mean, x.cov, 8),
    ]
    assert len({x.checksum, *(other.checksum for other in others)}) == 4


def test_a_damaged_file_is_one_line(tmp_path):
    path = tmp_path / "reference.safetensors"
    with pytest.raises(ValueError, match="is missing"):
        FrechetStatistics.load(path)
    FrechetStatistics.of(draw(7, 5, 1)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match="do not have the file's checksum"):
        FrechetStatistics.load(path)
    for broken in (whole[:-8], b"", b"PK\x03\x04"):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="holds no reference statistics") as error:
            FrechetStatistics.load(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (np.zeros((1, 4)), r"found the shape \[1, 4\]"),
        (np.zeros(4), r"found the shape \[4\]"),
        (np.array([[0.0, 1.0], [np.nan, 1.0], [2.0, 3.0]]), "1 of 3 embeddings are not finite"),
    ],
)
def test_what_has_no_covariance(embeddings, message):
    with pytest.raises(ValueError, match=message):
        FrechetStatistics.of(embeddings)


def test_widths_must_agree():
    with pytest.raises(ValueError, match="4 and 5 dimensions"):
        frechet_distance(draw(6, 4, 1), draw(6, 5, 1))


def test_mad_of_equal_sets_is_zero_and_grows_with_the_distance():
    pytest.importorskip("mauve", reason="the extra `mad` is not installed")
    x = draw(60, 8, 1)
    near, far = mad(x + 0.3, x), mad(x + 3, x)
    assert mad(x, x) == pytest.approx(0, abs=1e-9) and 0 < near < far


def test_mad_without_its_library_says_what_to_install():
    if importlib.util.find_spec("mauve"):
        pytest.skip("the extra `mad` is installed")
    with pytest.raises(ValueError, match=r"not installed: pip install 'rlloop\[mad\]'"):
        mad(draw(60, 8, 1), draw(60, 8, 2))
