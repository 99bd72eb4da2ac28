import pytest

gymnasium = pytest.importorskip("gymnasium", reason="the gymnasium extra is not installed")

from gymnasium.utils.env_checker import check_env  # noqa: E402

from armap.gymnasium_ids import IDS  # noqa: E402


@pytest.mark.parametrize("env_id", ["armap/Game24-v0", "armap/WebShop-v0", "armap/Toy-v0"])
def test_our_environments_pass_the_checker_of_gymnasium(env_id):
    environment = gymnasium.make(env_id)
    check_env(environment.unwrapped)
    environment.close()


def test_every_id_names_an_environment_of_the_command_line():
    from armap.environments import ENVIRONMENTS

    assert sorted(IDS.values()) == sorted(ENVIRONMENTS)
