from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cachelib import FileSystemCache, SimpleCache

from flask_cognito_rotate.cache import Cache, open_cache
from flask_cognito_rotate.cache.file import FileCache
from flask_cognito_rotate.cache.memory import MemoryCache
from flask_cognito_rotate.errors import ConfigurationError


def opened(location: object, instance_path: object = "/nowhere") -> Cache:
    return open_cache(location, namespace="test", instance_path=str(instance_path))


@pytest.mark.parametrize("location", ["memory:", "MEMORY:"])
def test_memory_is_a_memory_cache(location: str) -> None:
    assert isinstance(opened(location), MemoryCache)


@pytest.mark.parametrize(
    ("location", "folder"),
    [
        ("file:", "instance/cognito_rotate"),
        ("file:sub/folder", "instance/sub/folder"),
        ("file:../beside", "beside"),
        ("file:{tmp}/absolute", "absolute"),
        ("file://{tmp}/url", "url"),
    ],
)
def test_file_is_a_folder_from_the_instance_path_on(
    location: str, folder: str, tmp_path: Path
) -> None:
    cache = opened(location.format(tmp=tmp_path), tmp_path / "instance")
    assert isinstance(cache, FileCache)
    assert (tmp_path / folder / "values").is_dir()


def test_a_cache_is_taken_as_it_is() -> None:
    cache = MemoryCache()
    assert opened(cache) is cache


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("redis://:s3cret@host/0", "redis:, which is not supported by this version"),
        ("rediss://host", "rediss:, which is not supported by this version"),
        ("valkey://host", "valkey:, which is not supported by this version"),
        ("memcached://host", "memcached:, which is not supported by this version"),
        ("dynamodb://table", "dynamodb:, which is not supported by this version"),
        ("s3:bucket", "s3:, which is unknown"),
        ("file", "not a location"),
        ("/path", "not a location"),
        ("", "not a location"),
        ("memory://s3cret", "write memory: alone"),
        ("file://s3cret/path", "not file://"),
        (None, "a NoneType"),
        (Path("/path"), "a PosixPath"),
    ],
)
def test_anything_else_is_a_mistake_that_is_explained(
    location: object, why: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        opened(location)
    (problem,) = caught.value.problems
    assert "COGNITO_CACHE" in problem
    assert why in problem
    assert "memory:" in problem or "file:" in problem
    assert "s3cret" not in problem


def test_a_cachelib_cache_is_refused_with_the_reason(tmp_path: Path) -> None:
    class Mine(SimpleCache):
        pass

    for cache in (SimpleCache(), Mine(), FileSystemCache(str(tmp_path))):
        with pytest.raises(ConfigurationError, match="atomic compare-and-set nor a"):
            opened(cache)


def test_a_backend_imports_no_other_backends_driver() -> None:
    script = (
        "import sys\n"
        f"sys.path[:] = {sys.path!r}\n"
        "before = set(sys.modules)\n"
        "from flask_cognito_rotate.cache import open_cache\n"
        "assert not {'cachelib', 'filelock'} & (set(sys.modules) - before)\n"
        "open_cache('memory:', namespace='', instance_path='')\n"
        "assert 'filelock' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
