"""CIFAR-10 as its authors publish it: read, refused when damaged, and never executed."""

import hashlib
import io
import pickle
import tarfile

import numpy as np
import pytest
import torch

from foreshock.lab.tasks import cifar_download
from foreshock.lab.tasks.cifar import BATCHES, CIFAR10_VARIABLE, load_cifar10
from foreshock.lab.tasks.cifar_download import cached_archive, download, find_images


def batch(seed, count=30):
    rng = np.random.default_rng(seed)
    labels = [i % 10 for i in range(count)]
    data = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
    data[:, 0] = labels  # The first red pixel tells the label.
    return {b"data": data, b"labels": labels}


def write_folder(root, protocol=2):
    root.mkdir()
    for seed, name in enumerate(BATCHES):
        (root / name).write_bytes(pickle.dumps(batch(seed), protocol=protocol))
    return root


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "cifar-10-batches-py")


@pytest.fixture
def archive(folder, tmp_path):
    path = tmp_path / "cifar.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    return path


@pytest.mark.parametrize("place", ["folder", "archive"])
def test_the_first_images_of_each_class(place, request):
    images, labels = load_cifar10(42, path=request.getfixturevalue(place))
    assert images.shape == (42, 3, 32, 32)
    assert torch.bincount(labels).tolist() == [5, 5] + [4] * 8
    assert torch.equal((images[:, 0, 0, 0] * 255).round().long(), labels)
    expected = batch(0)[b"data"][7].reshape(3, 32, 32) / np.float32(255)
    assert torch.equal(images[7], torch.from_numpy(expected))


def test_too_few_images(folder):
    with pytest.raises(ValueError, match=r"500 images were asked for, but .* has only 150"):
        load_cifar10(500, path=folder)


def test_a_pickle_that_would_run_code_is_refused(folder):
    class Bomb:
        def __reduce__(self):
            return print, ("never shown",)

    (folder / BATCHES[0]).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match=r"damaged \(UnpicklingError: .*print.*use data='digits'"):
        load_cifar10(10, path=folder)


def test_an_archive_that_ends_early(archive):
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"(no whole tar archive|damaged).*use data='digits'"):
        load_cifar10(10, path=archive)


def test_a_file_that_is_no_archive(tmp_path):
    path = tmp_path / "cifar.tar.gz"
    path.write_text("no archive")
    with pytest.raises(ValueError, match="no whole tar archive"):
        load_cifar10(10, path=path)


def test_an_array_of_another_shape(folder):
    wrong = {b"data": np.zeros((3, 7), dtype=np.uint8), b"labels": [0, 1, 2]}
    (folder / BATCHES[0]).write_bytes(pickle.dumps(wrong))
    with pytest.raises(ValueError, match=r"shape \(3, 7\)"):
        load_cifar10(10, path=folder)


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No path is given, the cache is empty, and nothing can be fetched."""
    monkeypatch.delenv(CIFAR10_VARIABLE, raising=False)
    monkeypatch.setenv(cifar_download.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(cifar_download.urllib.request, "urlopen", unreachable)


def unreachable(*_, **__):
    raise OSError("no network")


def test_a_download_is_checked_and_kept(nowhere, monkeypatch, archive):
    content = archive.read_bytes()
    sent = []
    monkeypatch.setattr(
        cifar_download.urllib.request, "urlopen", lambda url, timeout: sent.append(url) or io.BytesIO(content)
    )
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    path = download(url="https://example.org/x", md5=md5)
    assert path == cached_archive()
    assert load_cifar10(10, path=path)[0].shape == (10, 3, 32, 32)
    download(url="https://example.org/x", md5=md5)
    assert sent == ["https://example.org/x"]
    assert find_images() == cifar_download.ImageSource("cifar10", str(path), "Images: CIFAR-10.")


def test_a_damaged_download_is_thrown_away(nowhere, monkeypatch):
    monkeypatch.setattr(
        cifar_download.urllib.request, "urlopen", lambda url, timeout: io.BytesIO(b"something else")
    )
    with pytest.raises(ValueError, match=r"md5 .* thrown away.*FORESHOCK_CIFAR10"):
        download()
    assert list(cached_archive().parent.iterdir()) == []


def test_without_cifar_the_digits_stand_in_and_say_so(nowhere):
    source = find_images()
    assert (source.data, source.path) == ("digits", None)
    assert "CIFAR-10 was not to be had" in source.notice


def test_cifar_that_is_asked_for_and_missing(nowhere):
    with pytest.raises(FileNotFoundError, match=r"no network.*Pass a folder or archive.*FORESHOCK_CIFAR10"):
        find_images("cifar10")


def test_a_given_path_comes_first(nowhere, archive):
    assert find_images(path=str(archive)).path == str(archive)
    assert find_images("digits", str(archive)).data == "digits"
