import io
import tarfile

import pytest
import torch

from foreshock.lab.tasks import build_task
from foreshock.lab.tasks.cifar import CIFAR10_CLASSES, CIFAR10_VARIABLE, load_cifar10

image = pytest.importorskip("PIL.Image")


def write_image(path, colour, side=32):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.new("RGB", (side, side), colour).save(path, quality=95)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "cifar"
    for i, name in enumerate(CIFAR10_CLASSES):
        write_image(root / "test" / name / "0001.jpg", (0, 0, 255))
        write_image(root / "train" / name / "0002.jpg", (20 * i, 0, 0))
        write_image(root / "train" / name / "0003.JPEG", (0, 255, 0))
    write_image(root / "other" / "0000.jpg", (9, 9, 9))
    (root / "train" / "ship" / "notes.txt").write_text("no image")
    return root


@pytest.fixture
def archive(folder, tmp_path):
    path = tmp_path / "cifar.tar.xz"
    with tarfile.open(path, "w:xz") as tar:
        for file in sorted(folder.rglob("*"), reverse=True):
            if file.is_file():
                tar.add(file, arcname=file.relative_to(folder).as_posix())
    return path


@pytest.mark.parametrize("place", ["folder", "archive"])
def test_classes_are_balanced_and_training_images_come_first(place, request):
    images, labels = load_cifar10(12, path=request.getfixturevalue(place))
    assert images.shape == (12, 3, 32, 32)
    assert torch.bincount(labels).tolist() == [2, 2] + [1] * 8
    for pixels, label in zip(images, labels.tolist(), strict=True):
        red, green, _ = pixels.mean(dim=(1, 2)).tolist()
        # Either the second image of a class, which is green, or the first; JPEG moves colours a little.
        assert green > 0.9 or (green < 0.05 and abs(red - 20 * label / 255) < 0.02)


@pytest.fixture
def photographs(tmp_path):
    """Return a folder of two classes, of images of any size: red ones with blue sides, and green ones."""
    root = tmp_path / "photographs"
    for i in range(3):
        (root / "barn").mkdir(parents=True, exist_ok=True)
        wide = image.new("RGB", (120, 60), (0, 0, 255))
        wide.paste((255, 0, 0), (30, 0, 90, 60))
        wide.save(root / "barn" / f"{i}.png")
        write_image(root / "lawn" / f"{i}.jpg", (0, 255, 0), side=20 + i)
    return root


def test_any_images_are_cut_and_scaled_and_their_folders_are_classes(photographs):
    images, labels = load_cifar10(5, path=photographs)
    assert images.shape == (5, 3, 32, 32)
    assert labels.tolist() == [0, 0, 0, 1, 1]
    red = torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(3, 32, 32)
    torch.testing.assert_close(images[0], red)
    assert float(images[3, 1].min()) > 0.95
    with pytest.raises(ValueError, match=r"7 images were asked for, but .* has only 6"):
        load_cifar10(7, path=photographs)


def test_a_file_that_is_no_image_is_named(photographs):
    (photographs / "barn" / "0.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"barn/0\.png is no image that can be read"):
        load_cifar10(2, path=photographs)


def test_folder_and_archive_agree(folder, archive):
    for first, second in zip(load_cifar10(25, path=folder), load_cifar10(25, path=archive), strict=True):
        assert torch.equal(first, second)


def test_the_environment_variable_is_the_default(folder, monkeypatch):
    monkeypatch.setenv(CIFAR10_VARIABLE, str(folder))
    task = build_task("cnn", batch_size=None, seed=0, data="cifar10", images=10, side=16)
    images, _ = next(task.batches)
    assert images.shape == (10, 3, 16, 16)
    assert task.loss_fn(task.model, next(task.batches)).isfinite()


def test_says_where_the_data_are_missing(monkeypatch, tmp_path):
    monkeypatch.delenv(CIFAR10_VARIABLE, raising=False)
    with pytest.raises(FileNotFoundError, match=r"set the environment variable FORESHOCK_CIFAR10"):
        load_cifar10(10)
    with pytest.raises(FileNotFoundError, match=r"no CIFAR-10 at .*nowhere"):
        load_cifar10(10, path=tmp_path / "nowhere")


def test_too_few_images(folder):
    with pytest.raises(ValueError, match=r"40 images were asked for, but .* has only 30"):
        load_cifar10(40, path=folder)


def test_other_sizes_are_refused(tmp_path):
    write_image(tmp_path / "ship" / "0.jpg", (0, 0, 0), side=16)
    with pytest.raises(ValueError, match=r"ship/0\.jpg is 16×16"):
        load_cifar10(9, path=tmp_path)


def test_bytes_that_are_no_image_are_not_swallowed(tmp_path):
    (tmp_path / "ship").mkdir()
    (tmp_path / "ship" / "0.jpg").write_bytes(io.BytesIO(b"broken").getvalue())
    with pytest.raises(ValueError, match=r"ship/0\.jpg is no image that can be read"):
        load_cifar10(9, path=tmp_path)
