"""What every script does before it starts: where it lets JAX keep compiled programs."""

import jax
import launch
import pytest

NAMES = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture
def nothing_set():
    """JAX's own settings of the cache, put back afterwards."""
    before = {name: getattr(jax.config, name) for name in NAMES}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_in_the_users_cache_folder(nothing_set, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    launch._keep_programs()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "memcomp/jax")
    assert (tmp_path / "memcomp/jax").is_dir()
    assert jax.config.jax_persistent_cache_min_compile_time_secs < 1


def test_a_folder_that_the_user_has_named_stays(nothing_set, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    launch._keep_programs()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")
    assert not (tmp_path / "other").exists()


def test_without_a_place_for_them_no_programs_are_kept(nothing_set, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    launch._keep_programs()
    assert jax.config.jax_compilation_cache_dir is None
